"""Farthest-point selection: each new token is the one least like anything already picked."""

import torch
from torch import Tensor

from foveate.ops.cosine import Cosine
from foveate.ops.topk import check_k

# Two tokens that are each other's nearest tie for the first place exactly, up to the rounding of a float32 product.
_TIE = 1e-6


@torch.no_grad()
def farthest_points(x_BND: Tensor, k: int) -> Tensor:
    """Greedy max-min diversity in cosine distance (the problem of DivPrune, arXiv 2503.02175).

    The first pick is the token whose nearest other token is farthest; of several such (a pair of mutual nearest
    neighbours always ties), the one least like the image as a whole. Then, k - 1 times, the token whose nearest picked
    token is farthest. Memory is O(N) a step over one N x N matrix, or O(N D) without it above `cosine.GRAM_LIMIT`.

    Args:
        x_BND: features in any floating type; similarities are float32.
        k: how many, 1 to N.

    Returns:
        Indices [B, k] in picking order, always k different ones: a picked token is out, even if its copies are not.

    Raises:
        PlanError: k out of range.
    """
    b, n = x_BND.shape[:2]
    check_k(k, n)
    cosine = Cosine(x_BND)
    pick_B1 = _most_isolated(cosine)
    order_BK = torch.empty(b, k, dtype=torch.long, device=x_BND.device)
    order_BK[:, :1] = pick_B1
    # A picked token's likeness is 1 by definition; 2 keeps it behind exact copies of itself too.
    near_BN = cosine.rows(pick_B1)[:, 0].scatter_(1, pick_B1, 2.0)
    for step in range(1, k):
        pick_B1 = near_BN.argmin(1, keepdim=True)
        order_BK[:, step : step + 1] = pick_B1
        near_BN = torch.maximum(near_BN, cosine.rows(pick_B1)[:, 0]).scatter_(1, pick_B1, 2.0)
    return order_BK


def _most_isolated(cosine: Cosine) -> Tensor:
    nearest, total = [], []
    for index_BM in cosine.chunks():
        rows_BMN = cosine.rows(index_BM)
        total.append(rows_BMN.sum(-1, dtype=torch.float64))
        nearest.append(rows_BMN.scatter_(2, index_BM[:, :, None], -2.0).amax(-1))
    nearest_BN, total_BN = torch.cat(nearest, 1), torch.cat(total, 1)
    tied_BN = nearest_BN <= nearest_BN.amin(1, keepdim=True) + _TIE
    return total_BN.masked_fill(~tied_BN, torch.inf).argmin(1, keepdim=True)
