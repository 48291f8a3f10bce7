"""Farthest-point selection: each new token is the one least like anything already picked."""

import torch
from torch import Tensor

from foveate.ops.cosine import Cosine
from foveate.ops.start import check_start, given

# Two tokens that are each other's nearest tie for the first place exactly, up to the rounding of a float32 product.
_TIE = 1e-6


@torch.no_grad()
def farthest(
    x_BND: Tensor, k: int, weight_BN: Tensor | None = None, start_BS: Tensor | None = None, cap: float = 2.0
) -> Tensor:
    """Greedy max-min diversity in cosine distance (the problem of DivPrune, arXiv 2503.02175).

    Each step takes the open token i of largest w(i) * min(cap, min over picked j of 1 - cos(i, j)). Without a start the
    first is the token whose nearest other token is farthest, by weighted distance too; of several such (a pair of
    mutual nearest neighbours always ties), the one least like the image as a whole.

    Memory is O(N) a step over one N x N matrix, or O(N D) without it above `cosine.GRAM_LIMIT` tokens.

    Args:
        x_BND: features in any floating type; similarities are float32.
        k: how many, 1 to N.
        weight_BN: 0 or more; none is 1 for all.
        start_BS: tokens that are picked beforehand, in this order, -1 after the last; they count among the k.
        cap: distances above it count as it. 2 is no cap.

    Returns:
        Indices [B, k] in picking order, the start first; ties go to the lower index. Always k different ones: a picked
        token is out, even if its copies are not.

    Raises:
        PlanError: k out of range, or a start that is no list of different tokens.
    """
    b, n = x_BND.shape[:2]
    start_BS = check_start(start_BS, b, n, k)
    cosine = Cosine(x_BND)
    weight_BN = None if weight_BN is None else weight_BN.double()
    order_BK = torch.empty(b, k, dtype=torch.long, device=x_BND.device)
    near_BN = torch.full((b, n), 1 - cap, device=x_BND.device)
    pick_B = None if start_BS.shape[1] else _most_isolated(cosine, weight_BN)
    for step in range(k):
        pick_B = order_BK[:, step] = given(start_BS, step, pick_B)
        # A picked token's likeness is 1 by definition; 2 keeps it behind exact copies of itself too.
        near_BN = torch.maximum(near_BN, cosine.rows(pick_B[:, None])[:, 0]).scatter_(1, pick_B[:, None], 2.0)
        pick_B = near_BN.argmin(1) if weight_BN is None else _weighted(near_BN, weight_BN)
    return order_BK


def _weighted(near_BN: Tensor, weight_BN: Tensor) -> Tensor:
    value_BN = weight_BN * (1 - near_BN.double())
    return value_BN.masked_fill_(near_BN > 1, -torch.inf).argmax(1)


def _most_isolated(cosine: Cosine, weight_BN: Tensor | None) -> Tensor:
    nearest, total = [], []
    for index_BM in cosine.chunks():
        rows_BMN = cosine.rows(index_BM)
        total.append(rows_BMN.sum(-1, dtype=torch.float64))
        nearest.append(rows_BMN.scatter_(2, index_BM[:, :, None], -2.0).amax(-1))
    far_BN, total_BN = 1 - torch.cat(nearest, 1).double(), torch.cat(total, 1)
    if weight_BN is not None:
        far_BN = weight_BN * far_BN
    # Of distances of 2 at most; weighted ones are compared on their own scale.
    slack_B1 = _TIE if weight_BN is None else _TIE * weight_BN.amax(1, keepdim=True)
    tied_BN = far_BN >= far_BN.amax(1, keepdim=True) - slack_B1
    return total_BN.masked_fill(~tied_BN, torch.inf).argmin(1)
