"""The k best of each row, with ties broken the same way everywhere."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.errors import PlanError, SignalError
from foveate.ops.doubts import insist


def check_k(k: int, n: int) -> None:
    """Refuse a count that cannot be met.

    Raises:
        PlanError: k is below 1 or above n.
    """
    if not 1 <= k <= n:
        raise PlanError(f"k is {k}, but it must lie between 1 and the number of tokens, {n}")


def top_mask(score_BN: Tensor, k: int) -> Tensor:
    """True at the k highest scores of each row; among equals the lower index wins.

    A stable sort, not topk: topk breaks ties differently from device to device, and batch must equal singles.
    """
    check_k(k, score_BN.shape[1])
    order = ranked(score_BN)[:, :k]
    return torch.zeros_like(score_BN, dtype=torch.bool).scatter_(1, order, True)


def ranked(score_BN: Tensor) -> Tensor:
    """Indices [B, N] of each row by falling score; among equals the lower index comes first.

    Raises:
        SignalError: a score is NaN.
    """
    insist(score_BN.isnan().sum(dtype=torch.float64)[None], _order)
    return torch.sort(score_BN, dim=-1, descending=True, stable=True).indices


def _order(nans: Sequence[float]) -> SignalError | None:
    if not nans[0]:
        return None
    return SignalError("scores hold NaN, so there is no order; check the model's activations for overflow")


def head_mask(score_BN: Tensor, counts_B: Tensor) -> Tensor:
    """True at the highest scores of each row, as many as its count says; among equals the lower index wins."""
    order_BN = ranked(score_BN)
    head_BN = torch.arange(order_BN.shape[1], device=order_BN.device) < counts_B[:, None]
    return torch.zeros_like(head_BN).scatter_(1, order_BN, head_BN)


def outliers(score_BN: Tensor) -> Tensor:
    """[B]: how many scores of each row lie above the third quartile by 1.5 times the quartiles' distance."""
    low_B1, high_B1 = score_BN.float().quantile(torch.tensor([0.25, 0.75], device=score_BN.device), dim=1, keepdim=True)
    return (score_BN.float() > high_B1 + 1.5 * (high_B1 - low_B1)).sum(1)
