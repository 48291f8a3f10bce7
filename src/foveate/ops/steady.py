"""Greedy coverage a pick at a time, every gain computed anew: nothing is looked at, so no device is waited for."""

import torch
from torch import Tensor

from foveate.ops.start import given

_MOST = 1 << 26
"""Entries of a matrix [N, R] up to which k passes over all of it cost less than waiting for a device k times and more;
and entries worked on at a time."""


def serves(like: Tensor, n: int, r: int) -> bool:
    """Whether this is the way on this tensor's device: not on a CPU, where looking is free and saves work."""
    return like.device.type != "cpu" and n * r <= _MOST


def steady(
    rows_BNR: Tensor,
    floor: float,
    k: int,
    start_BS: Tensor,
    weight_BR: Tensor | None,
    value_BN: Tensor | None,
    bonus_BN: Tensor | None,
) -> Tensor:
    """Picks [B, k], as `coverage.cover` of rows that say how far each token covers each thing. Weights are float64."""
    b, n, r = rows_BNR.shape
    size = max(1, _MOST // (n * r))
    out = []
    for at in range(0, b, size):
        some = slice(at, at + size)
        weights = [None if w is None else w[some] for w in (weight_BR, value_BN, bonus_BN)]
        out.append(_picks(rows_BNR[some], floor, k, start_BS[some], *weights))
    return torch.cat(out)


def _picks(
    rows_BNR: Tensor, floor: float, k: int, start_BS: Tensor, weight_BR: Tensor | None, value_BN: Tensor | None,
    bonus_BN: Tensor | None,
) -> Tensor:  # fmt: skip
    b, n, r = rows_BNR.shape
    order_BK = torch.empty(b, k, dtype=torch.long, device=rows_BNR.device)
    best_B1R = torch.full((b, 1, r), floor, dtype=torch.float64, device=rows_BNR.device)
    shut_BN = torch.zeros(b, n, dtype=torch.bool, device=rows_BNR.device)
    for step in range(k):
        # In float64 differences of similarities are exact.
        more_BNR = (rows_BNR.double() - best_B1R).clamp_(min=0)
        gain_BN = (more_BNR if weight_BR is None else more_BNR.mul_(weight_BR[:, None])).sum(2)
        if value_BN is not None:
            gain_BN = gain_BN * value_BN
        if bonus_BN is not None:
            gain_BN = gain_BN + bonus_BN
        pick_B1 = given(start_BS, step, gain_BN.masked_fill(shut_BN, -torch.inf).argmax(1))[:, None]
        order_BK[:, step] = pick_B1[:, 0]
        shut_BN = shut_BN.scatter(1, pick_B1, True)
        row_B1R = rows_BNR.gather(1, pick_B1[:, :, None].expand(-1, -1, r))
        best_B1R = torch.maximum(best_B1R, row_B1R.double())
    return order_BK
