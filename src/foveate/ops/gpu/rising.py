"""Coverage, alone or balanced with relevance and diversity, as one kernel."""

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops.gpu.similar import begin, matrix, numbers, steps_of, warps
from foveate.ops.roads import groups

Mode = Literal["mean", "minmax", "coverage"]
MODES: dict[Mode, int] = {"mean": 0, "minmax": 1, "coverage": 2}


@triton.jit
def _total(x, open_):
    return tl.maximum(tl.sum(tl.where(open_, tl.abs(x), 0.0), 0), 1e-300)


@triton.jit
def _ranged(x, open_):
    low = tl.min(tl.where(open_, x, float("inf")), 0)
    high = tl.max(tl.where(open_, x, float("-inf")), 0)
    return (x - low) / tl.maximum(high - low, 1e-300)


@triton.jit
def walk(similar, first, second, weight, best0, gain0, risen, start, order, N, K, S,
         MODE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One image. first: the relevance or, in mode 2, a factor of the gain; second: in mode 2, what is added to it.
    risen: scratch [B, 3, N] int32, the columns whose best rose, with where from and where to."""
    b, at, some = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK), tl.arange(0, TILE)
    real = at < N
    unit: tl.constexpr = 1.0 / (1 << 30)
    rows, columns = similar + b * N * N, risen + b * 3 * N
    one = tl.load(first + b * N + at, mask=real, other=0.0)
    gain = tl.load(gain0 + b * N + at, mask=real, other=0)
    best = tl.load(best0 + b * N + at, mask=real, other=1 << 30)
    beta, alpha, lam = tl.load(weight), tl.load(weight + 1), tl.load(weight + 2)
    open_ = real
    for t in range(K):
        # In float64, and every product rounded by itself, as the torch loop does.
        covers = gain.to(tl.float64) * unit
        if MODE == 2:
            u = covers * one + tl.load(second + b * N + at, mask=real, other=0.0)
        else:
            far = 1.0 - best.to(tl.float64) * unit
            if MODE == 0:
                u = one * (beta / _total(one, open_)) + far * (alpha / _total(far, open_))
                u += covers * (lam / _total(covers, open_))
            else:
                u = _ranged(one, open_) * beta + _ranged(far, open_) * alpha + _ranged(covers, open_) * lam
        pick = tl.argmax(tl.where(open_, u, float("-inf")), 0, tie_break_left=True).to(tl.int64)
        if t < S:
            fixed = tl.load(start + b * S + t)
            pick = tl.where(fixed >= 0, fixed, pick)
        tl.store(order + b * K + t, pick)
        open_ = open_ & (at != pick)
        row = tl.load(rows + pick * N + at, mask=real, other=-(1 << 30))
        rise = row > best
        count = tl.sum(rise.to(tl.int32), 0)
        place = tl.cumsum(rise.to(tl.int32), 0) - 1
        tl.debug_barrier()
        tl.store(columns + place, at, mask=rise)
        tl.store(columns + N + place, best, mask=rise)
        tl.store(columns + 2 * N + place, row, mask=rise)
        tl.debug_barrier()
        for r in range(0, count, TILE):
            here = r + some < count
            j = tl.load(columns + r + some, mask=here, other=0).to(tl.int64)
            low = tl.load(columns + N + r + some, mask=here, other=0)[:, None]
            high = tl.load(columns + 2 * N + r + some, mask=here, other=0)[:, None]
            s = tl.load(rows + j[:, None] * N + at[None, :], mask=here[:, None] & real[None, :], other=0)
            # Where there is no column low and high are both 0, and nothing is taken.
            gain -= tl.sum(tl.minimum(tl.maximum(s, low), high).to(tl.int64) - low.to(tl.int64), 0)
        best = tl.maximum(best, row)


def rising(
    x_BND: Tensor,
    k: int,
    mode: Mode,
    first_BN: Tensor | None,
    second_BN: Tensor | None,
    weight_3: tuple[float, float, float],
    start_BS: Tensor,
    floor: float,
) -> Tensor:
    """Indices [B, k] of `balance` (its normaliser as mode, the relevance first) or of `coverage` (value, bonus)."""
    (b, n), device = x_BND.shape[:2], x_BND.device
    block, s = triton.next_power_of_2(n), start_BS.shape[1]
    order_BK = torch.empty(b, k, dtype=torch.long, device=device)
    for some in groups(x_BND):
        similar_BNN, order_IK = matrix(x_BND[some]), order_BK[some]
        start_IS = start_BS[some].to(device).contiguous() if s else order_IK
        if mode == "coverage":
            best_IN = torch.full((len(order_IK), n), steps_of(floor), dtype=torch.int32, device=device)
        else:
            # What the first pick covers is covered from the beginning.
            at_I11 = start_IS[:, :1, None].clamp(min=0).expand(-1, 1, n)
            best_IN = similar_BNN.gather(1, at_I11)[:, 0].contiguous()
        gain_IN = torch.empty_like(best_IN, dtype=torch.int64)
        begin[best_IN.shape](similar_BNN, best_IN, gain_IN, n, BLOCK=block, num_warps=4)
        one_IN, two_IN = (
            torch.full_like(gain_IN, value, dtype=torch.float64) if x is None else x[some].double().contiguous()
            for value, x in ((1.0, first_BN), (0.0, second_BN))
        )
        scratch_I3N = torch.empty(len(order_IK), 3, n, dtype=torch.int32, device=device)
        walk[(len(order_IK),)](
            similar_BNN, one_IN, two_IN, numbers(device, *weight_3), best_IN, gain_IN, scratch_I3N, start_IS, order_IK,
            n, k, s, MODE=MODES[mode], TILE=4, BLOCK=block, num_warps=warps(block), enable_fp_fusion=False,
        )  # fmt: skip
    return order_BK
