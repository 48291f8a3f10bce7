"""Suppression as one kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops.gpu.similar import matrix, warps
from foveate.ops.roads import groups

WAYS = {None: 0, "square": 1, "linear": 2}


@triton.jit
def walk(similar, worth, radius, start, order, N, K, S, WAY: tl.constexpr, HARD: tl.constexpr, BLOCK: tl.constexpr):
    """One image. worth and radius ([B, K], read where `HARD`) are float64."""
    b, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    real = at < N
    unit: tl.constexpr = 1.0 / (1 << 30)
    rows = similar + b * N * N
    left = tl.load(worth + b * N + at, mask=real, other=float("-inf"))
    open_ = real
    for t in range(K):
        value = tl.where(open_, left, float("-inf"))
        # The first of the open ones, even where all that are left have a score of -inf.
        pick = tl.min(tl.where(open_ & (value == tl.max(value, 0)), at, N), 0).to(tl.int64)
        some = pick < N
        if t < S:
            fixed = tl.load(start + b * S + t)
            pick = tl.where(fixed >= 0, fixed, pick)
            some = some | (fixed >= 0)
        tl.store(order + b * K + t, tl.where(some, pick, -1))
        near = tl.load(rows + tl.minimum(pick, N - 1) * N + at, mask=real, other=0).to(tl.float64) * unit
        if WAY == 1:
            left = left * (1.0 - near * near)
        if WAY == 2:
            left = left * (1.0 - tl.maximum(near, 0.0))
        if HARD:
            open_ = open_ & (1.0 - near >= tl.load(radius + b * K + t))
        open_ = open_ & (at != pick)


def suppress(
    x_BND: Tensor, score_BN: Tensor, k: int, radius_BK: Tensor | None, soften: str | None, start_BS: Tensor
) -> Tensor:
    """Indices [B, k], -1 after the last; arguments as in `ops.suppress.suppress`, scores and radii in float64."""
    n, s = x_BND.shape[1], start_BS.shape[1]
    block = triton.next_power_of_2(n)
    order_BK = torch.empty(len(x_BND), k, dtype=torch.long, device=x_BND.device)
    for some in groups(x_BND):
        order_IK, score_IN = order_BK[some], score_BN[some].contiguous()
        radius_IK = score_IN if radius_BK is None else radius_BK[some].contiguous()
        start_IS = start_BS[some].to(x_BND.device).contiguous() if s else order_IK
        walk[(len(order_IK),)](
            matrix(x_BND[some]), score_IN, radius_IK, start_IS, order_IK, n, k, s, WAY=WAYS[soften],
            HARD=radius_BK is not None, BLOCK=block, num_warps=warps(block), enable_fp_fusion=False,
        )  # fmt: skip
    return order_BK
