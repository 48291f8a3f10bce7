"""Farthest points as one kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops.gpu.similar import isolation, matrix, numbers, steps_of, warps
from foveate.ops.roads import groups


@triton.jit
def walk(similar, near0, total, weight, slack, start, order, N, K, S, cap, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    """One image. `slack`: what still ties for the first place; `cap`: the least similarity that counts."""
    b, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    real = at < N
    unit: tl.constexpr = 1.0 / (1 << 30)
    rows = similar + b * N * N
    w = tl.load(weight + b * N + at, mask=real, other=0.0) if WEIGHTED else tl.full([BLOCK], 1.0, tl.float64)
    pick = tl.full([], 0, tl.int64)
    if S == 0:
        far = (1.0 - tl.load(near0 + b * N + at, mask=real, other=0).to(tl.float64) * unit) * w
        far = tl.where(real, far, float("-inf"))
        scale = tl.max(w, 0) if WEIGHTED else tl.full([], 1.0, tl.float64)
        tied = far >= tl.max(far, 0) - tl.load(slack) * scale
        alone = tl.load(total + b * N + at, mask=real, other=0).to(tl.float64)
        pick = tl.argmin(tl.where(tied, alone, float("inf")), 0, tie_break_left=True).to(tl.int64)
    near = tl.where(real, cap, 2147483647)
    for t in range(K):
        if t < S:
            fixed = tl.load(start + b * S + t)
            pick = tl.where(fixed >= 0, fixed, pick)
        tl.store(order + b * K + t, pick)
        row = tl.load(rows + pick * N + at, mask=real, other=2147483647)
        near = tl.where(at == pick, 2147483647, tl.maximum(near, row))
        if WEIGHTED:
            value = w * (1.0 - near.to(tl.float64) * unit)
            value = tl.where(near == 2147483647, float("-inf"), value)
            pick = tl.argmax(value, 0, tie_break_left=True).to(tl.int64)
        else:
            pick = tl.argmin(near, 0, tie_break_left=True).to(tl.int64)


def farthest(x_BND: Tensor, k: int, weight_BN: Tensor | None, start_BS: Tensor, cap: float, slack: float) -> Tensor:
    """Indices [B, k]; arguments as in `ops.farthest.farthest`, and the slack of a tie for the first place."""
    (b, n), device = x_BND.shape[:2], x_BND.device
    block, s = triton.next_power_of_2(n), start_BS.shape[1]
    order_BK = torch.empty(b, k, dtype=torch.long, device=device)
    for some in groups(x_BND):
        similar_BNN = matrix(x_BND[some])
        near_BN = torch.empty(len(similar_BNN), n, dtype=torch.int32, device=device)
        total_BN = torch.empty_like(near_BN, dtype=torch.int64)
        if not s:
            isolation[near_BN.shape](similar_BNN, near_BN, total_BN, n, BLOCK=block, num_warps=4)
        w_BN = total_BN if weight_BN is None else weight_BN[some].double().contiguous()
        given_BS = start_BS[some].to(device).contiguous() if s else total_BN
        walk[(len(near_BN),)](
            similar_BNN, near_BN, total_BN, w_BN, numbers(device, slack), given_BS, order_BK[some], n, k, s,
            steps_of(1 - cap), WEIGHTED=weight_BN is not None, BLOCK=block, num_warps=warps(block),
            enable_fp_fusion=False,
        )  # fmt: skip
    return order_BK
