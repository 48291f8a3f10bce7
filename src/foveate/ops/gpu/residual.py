"""Residual selection as one kernel: a Cholesky decomposition of the Gram matrix, pivoted, as far as it is needed."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops.gpu.similar import numbers, warps
from foveate.ops.roads import groups


@triton.jit
def walk(gram, weight, tolerance, part, start, order, N, K, S, BLOCK: tl.constexpr):
    """One image. gram, weight and part (scratch [B, K, N]) are float64."""
    b, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    real = at < N
    rows, parts = gram + b * N * N, part + b * K * N
    w = tl.load(weight + b * N + at, mask=real, other=0.0)
    left = tl.load(rows + at.to(tl.int64) * (N + 1), mask=real, other=0.0)
    least = left * tl.load(tolerance)
    open_ = real
    for t in range(K):
        can = open_ & (left > least)
        value = tl.where(can, w * left, float("-inf"))
        pick = tl.argmax(value, 0, tie_break_left=True).to(tl.int64)
        some = tl.max(can.to(tl.int32), 0) > 0
        if t < S:
            fixed = tl.load(start + b * S + t)
            pick = tl.where(fixed >= 0, fixed, pick)
            some = some | (fixed >= 0)
        tl.store(order + b * K + t, tl.where(some, pick, -1))
        mine = at == pick
        c = tl.load(rows + pick * N + at, mask=real, other=0.0)
        for s in range(t):
            old = tl.load(parts + s * N + at, mask=real, other=0.0)
            c -= old * tl.sum(tl.where(mine, old, 0.0), 0)
        length = tl.sum(tl.where(mine & can, left, 0.0), 0)
        c = tl.where(length > 0, c / tl.sqrt(tl.where(length > 0, length, 1.0)), 0.0)
        tl.store(parts + t * N + at, c, mask=real)
        tl.debug_barrier()
        left -= c * c
        open_ = open_ & (at != pick)


def residual(x_BND: Tensor, k: int, weight_BN: Tensor | None, start_BS: Tensor, tolerance: float) -> Tensor:
    """Indices [B, k]; arguments as in `ops.residual.residual`. In float64: picks go by small differences."""
    (b, n), device = x_BND.shape[:2], x_BND.device
    block, s = triton.next_power_of_2(n), start_BS.shape[1]
    order_BK = torch.empty(b, k, dtype=torch.long, device=device)
    for some in groups(x_BND):
        order_IK, x_IND = order_BK[some], x_BND[some].double()
        with torch.autocast(device.type, enabled=False):
            gram_INN = x_IND @ x_IND.mT
        part_IKN = torch.empty(len(order_IK), k, n, dtype=torch.float64, device=device)
        weight_IN = part_IKN.new_ones(len(order_IK), n) if weight_BN is None else weight_BN[some].double().contiguous()
        start_IS = start_BS[some].to(device).contiguous() if s else order_IK
        walk[(len(order_IK),)](
            gram_INN, weight_IN, numbers(device, tolerance), part_IKN, start_IS, order_IK, n, k, s,
            BLOCK=block, num_warps=warps(block), enable_fp_fusion=False,
        )  # fmt: skip
    return order_BK
