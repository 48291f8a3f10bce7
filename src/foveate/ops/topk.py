"""The k best of each row, with ties broken the same way everywhere."""

import torch
from torch import Tensor

from foveate.errors import PlanError, SignalError


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
    if torch.isnan(score_BN).any():
        raise SignalError("scores hold NaN, so there is no order; check the model's activations for overflow")
    order = torch.sort(score_BN, dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(score_BN, dtype=torch.bool).scatter_(1, order, True)
