"""A pointer's whole walk as one kernel: coverage, state and stop move in registers, and nothing waits for the host."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops.gpu.similar import warps


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def walk(score, key, sight, given, own, begin, stop, time, lead, dials, hold, order, stops, N, T,
         GROUP: tl.constexpr, STATE: tl.constexpr, HAZARD: tl.constexpr, M: tl.constexpr, TILE: tl.constexpr,
         BLOCK: tl.constexpr):  # fmt: skip
    """One image.

    score [N], its query's constant part in it; key [M, N], what the state asks of each token; sight [N, N], how far a
    token covers another; given [N, 3, M], what a token gives a GRU's gates, biases in it; own [3, M + 1, M], what the
    state gives them, biases last; begin [M], the first state; stop [M], its weight for stopping; lead: after how many
    picks coverage alone decides; dials [4]: the weight of coverage, the stop's constant part, the weight of the best
    score, and that of worth once coverage decides; hold: scratch [M].
    """
    b, at, m, some = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK), tl.arange(0, M), tl.arange(0, TILE)
    real = at < N
    rows, keys, gates = sight + b * N * N, key + b * M * N, given + b * N * 3 * M
    left = tl.load(score + b * N + at, mask=real, other=float("-inf"))
    late = tl.load(time + b)
    cover, base, best_weight = tl.load(dials), tl.load(dials + 1), tl.load(dials + 2)
    led, hushed = tl.load(lead + b), tl.load(dials + 3)
    h = tl.load(begin + b * M + m)
    covered, asked = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    r_own, z_own, n_own = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
    for t in range(0, T, GROUP):
        if STATE or t == 0:
            # Registers cannot be indexed, so the state goes through memory.
            tl.debug_barrier()
            tl.store(hold + b * M + m, h)
            tl.debug_barrier()
            asked = tl.zeros([BLOCK], tl.float32)
            if STATE:
                r_own = tl.load(own + M * M + m)
                z_own = tl.load(own + (M + 1) * M + M * M + m)
                n_own = tl.load(own + 2 * (M + 1) * M + M * M + m)
            for i in range(0, M, TILE):
                line = (i + some)[:, None]
                part = tl.load(hold + b * M + i + some)[:, None]
                asked += tl.sum(tl.load(keys + line * N + at[None, :], mask=real[None, :], other=0.0) * part, 0)
                if STATE:
                    gate = own + line * M + m[None, :]
                    r_own += tl.sum(tl.load(gate) * part, 0)
                    z_own += tl.sum(tl.load(gate + (M + 1) * M) * part, 0)
                    n_own += tl.sum(tl.load(gate + 2 * (M + 1) * M) * part, 0)
        worth = tl.where(t < led, 1.0, hushed)
        r_in, z_in, n_in = tl.zeros([M], tl.float32), tl.zeros([M], tl.float32), tl.zeros([M], tl.float32)
        for place in range(GROUP):
            if t + place < T:
                u = worth * (left + asked) - cover * covered
                pick = tl.argmax(u, 0, tie_break_left=True).to(tl.int64)
                logit = float("-inf")
                if place == 0 and t > 0:
                    best = tl.max(u, 0)
                    calm = tl.sum(h * tl.load(stop + m), 0) + base
                    logit = calm + late * t - best_weight * best if HAZARD else calm - best
                tl.store(stops + b * T + t + place, logit)
                tl.store(order + b * T + t + place, pick)
                covered = tl.maximum(covered, tl.load(rows + pick * N + at, mask=real, other=0.0))
                left = tl.where(at == pick, float("-inf"), left)
                if STATE:
                    gate = gates + pick * 3 * M + m
                    r_in += tl.load(gate)
                    z_in += tl.load(gate + M)
                    n_in += tl.load(gate + 2 * M)
        if STATE:
            size = tl.minimum(GROUP, T - t)
            r, z = _sigmoid(r_in / size + r_own), _sigmoid(z_in / size + z_own)
            x = n_in / size + r * n_own
            h = (1.0 - z) * (2.0 * _sigmoid(2.0 * x) - 1.0) + z * h


def launch(
    score_BN: Tensor, key_BmN: Tensor, sight_BNN: Tensor, given_BN3m: Tensor | None, own_3Mm: Tensor | None,
    begin_Bm: Tensor, stop_m: Tensor | None, time_B: Tensor, lead_B: Tensor, dials_4: Tensor, most: int, group: int,
    hazard: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Picks [B, T] and the stop's logit before each, -inf where none was asked.

    Arguments are the kernel's. No given (and own) is a walk without a state, no stop one that never stops.
    """
    b, n = score_BN.shape
    order_BT = torch.empty(b, most, dtype=torch.long, device=score_BN.device)
    stops_BT = torch.empty(b, most, device=score_BN.device)
    hold_Bm, block = torch.empty_like(begin_Bm), triton.next_power_of_2(n)
    given_BN3m, own_3Mm = (hold_Bm if x is None else x.contiguous() for x in (given_BN3m, own_3Mm))
    walk[(b,)](
        score_BN.contiguous(), key_BmN.contiguous(), sight_BNN.contiguous(), given_BN3m, own_3Mm,
        begin_Bm.contiguous(), hold_Bm if stop_m is None else stop_m.contiguous(), time_B, lead_B, dials_4, hold_Bm,
        order_BT, stops_BT, n, most, GROUP=group, STATE=own_3Mm is not hold_Bm, HAZARD=hazard, M=begin_Bm.shape[1],
        TILE=8, BLOCK=block, num_warps=2 * warps(block), enable_fp_fusion=False,
    )  # fmt: skip
    return order_BT, stops_BT if stop_m is not None else stops_BT.fill_(-torch.inf)
