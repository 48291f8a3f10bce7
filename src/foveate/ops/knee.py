"""Where a sorted curve bends: how many values stand out from the rest."""

import torch
from torch import Tensor

from foveate.errors import PlanError, SignalError
from foveate.ops.doubts import insist_finite


def check_knee(c: float, quantile: float) -> None:
    """Refuse an exponent or a quantile that means nothing.

    Raises:
        PlanError: c is not above 0 and finite, or the quantile is outside (0, 1].
    """
    if not 0 < c < float("inf"):
        raise PlanError(f"c is {c}; the exponent of the knee must be above 0 (larger keeps more)")
    if not 0 < quantile <= 1:
        raise PlanError(f"quantile is {quantile}; it must lie in (0, 1], and 1 is the largest value itself")


@torch.no_grad()
def knee(score_BN: Tensor, c: float, quantile: float = 1.0) -> Tensor:
    """How many of each row's values make up the head of its sorted curve, by the rule of arXiv 2409.01162.

    With d_1 >= ... >= d_n the values in order, the head ends at the i of largest f(i) = (n - i) (d_1 - d_i)^c: the tail
    should be long, and far below the top. The answer does not change when all values are shifted, or scaled by a number
    above 0. A larger c never gives a smaller head. As f(1) is 0, the first value past the fall counts as head: a single
    peak gives 2. A row of equal values has no knee, and is all head.

    Args:
        score_BN: larger values come first.
        c: exponent, above 0.
        quantile: this quantile of the row stands for d_1, values above it count as equal to it: one outlier at the top
            would make everything else look like tail. 1 is d_1 itself, which also stands where the quantile is d_n.

    Returns:
        [B] counts, from 1 to N.

    Raises:
        PlanError: c or quantile out of range.
        SignalError: a value is NaN or infinite.
    """
    check_knee(c, quantile)
    x_BN = score_BN.double()
    insist_finite(x_BN, _endless)
    n = x_BN.shape[1]
    d_BN = x_BN.sort(dim=1, descending=True).values
    top_B1 = x_BN.quantile(quantile, dim=1, keepdim=True)
    fall_BN = (torch.where(top_B1 > d_BN[:, -1:], top_B1, d_BN[:, :1]) - d_BN).clamp_(min=0)
    # The logarithm of f: the same place, and no power of a small number gets lost.
    tail_N = torch.arange(n - 1, -1, -1, dtype=torch.float64, device=x_BN.device)
    log_BN = tail_N.log() + c * (fall_BN / fall_BN[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)).log()
    return torch.where(fall_BN[:, -1] > 0, log_BN.argmax(1) + 1, n)


def _endless() -> SignalError:
    return SignalError("scores hold NaN or infinity, so their curve has no knee; check the activations for overflow")
