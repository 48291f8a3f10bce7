"""Greedy choice by relevance, diversity and coverage together, exact and without recomputing the coverage."""

from typing import Literal

import torch
from torch import Tensor

from foveate.ops.cosine import CHUNK, Cosine
from foveate.ops.topk import check_k

Normalise = Literal["mean", "minmax"]


@torch.no_grad()
def coverage_greedy(
    x_BND: Tensor,
    relevance_BN: Tensor,
    k: int,
    alpha: float = 0.5,
    lam: float = 0.5,
    normalise: Normalise = "mean",
    first_BN: Tensor | None = None,
) -> Tensor:
    """The greedy selection of TOPS (arXiv 2606.27161, Algorithms 1 and 2).

    With s(i, j) the cosine and m(j) the best s(i, j) over the picked i, each step takes the open token i of largest
    relevance(i) + alpha * diversity(i) + lam * coverage(i), where diversity(i) = 1 - m(i) and coverage(i) is the sum
    over open j of max(0, s(i, j) - m(j)). Each criterion is first normalised over the open tokens.

    The coverage is kept up to date instead of recomputed: a pick changes it only through the columns whose m rose, a
    dozen of thousands in a typical step. Similarities are multiples of 2^-30 and sums are float64, so nothing is
    rounded and the picks are those of the full recomputation (above `cosine.GRAM_LIMIT` tokens, to the rounding of a
    float32 product).

    Args:
        x_BND: features in any floating type.
        relevance_BN: not negative; larger is more relevant.
        k: how many, 1 to N.
        alpha: weight of diversity, relative to relevance.
        lam: weight of coverage; 0 leaves its cost out.
        normalise: "mean" divides by the mean of the open tokens, "minmax" maps their range to [0, 1].
        first_BN: the first pick is the largest of these, by default of the relevance.

    Returns:
        Indices [B, k] in picking order; ties go to the lower index.

    Raises:
        PlanError: k out of range.
    """
    b, n = relevance_BN.shape
    check_k(k, n)
    cosine = Cosine(x_BND)
    scale = _by_mean if normalise == "mean" else _by_range
    weight_31 = torch.tensor([[1.0], [alpha], [lam]], dtype=torch.float64, device=x_BND.device)
    open_BN = torch.ones(b, n, dtype=torch.bool, device=x_BND.device)
    order_BK = torch.empty(b, k, dtype=torch.long, device=x_BND.device)

    pick_B1 = (relevance_BN if first_BN is None else first_BN).argmax(1, keepdim=True)
    order_BK[:, :1] = pick_B1
    open_BN.scatter_(1, pick_B1, False)
    best_BN = cosine.rows(pick_B1)[:, 0].double()
    criteria_B3N = torch.stack([relevance_BN.double(), 1 - best_BN, torch.zeros_like(best_BN)], dim=1)
    if lam:
        for index_BM in cosine.chunks():
            criteria_B3N[:, 2] += _covered(cosine, index_BM, best_BN, None)

    for step in range(1, k):
        score_BN = (scale(criteria_B3N, open_BN[:, None]) * weight_31).sum(1)
        pick_B1 = score_BN.masked_fill_(~open_BN, -torch.inf).argmax(1, keepdim=True)
        order_BK[:, step : step + 1] = pick_B1
        open_BN.scatter_(1, pick_B1, False)
        rise_BN = (cosine.rows(pick_B1)[:, 0] - best_BN).clamp_(min=0)
        if lam and step < k - 1:
            for index_BM in _risen(rise_BN):
                criteria_B3N[:, 2] -= _covered(cosine, index_BM, best_BN, rise_BN)
        best_BN += rise_BN
        torch.sub(1, best_BN, out=criteria_B3N[:, 1])
    return order_BK


def _risen(rise_BN: Tensor) -> tuple[Tensor, ...]:
    """The columns whose best rose, in chunks; images with fewer of them are filled up with columns that rise by 0."""
    b, n = rise_BN.shape
    most = int((rise_BN > 0).sum(1).max())
    return rise_BN.topk(most, sorted=False).indices.split(max(1, CHUNK // (b * n)), dim=1) if most else ()


def _covered(cosine: Cosine, index_BM: Tensor, best_BN: Tensor, rise_BN: Tensor | None) -> Tensor:
    """What each token covers of the columns `index_BM` above their best, at most up to where that best rises now."""
    gain_BMN = cosine.rows(index_BM) - best_BN.gather(1, index_BM)[:, :, None]
    gain_BMN.clamp_(min=0)
    if rise_BN is not None:
        torch.minimum(gain_BMN, rise_BN.gather(1, index_BM)[:, :, None], out=gain_BMN)
    return gain_BMN.sum(1)


def _by_mean(x_B3N: Tensor, open_B1N: Tensor) -> Tensor:
    # The mean of magnitudes: the plain one for the criteria as defined, and no flip of sign for anyone else's.
    mean_B31 = (x_B3N.abs() * open_B1N).sum(-1, keepdim=True) / open_B1N.sum(-1, keepdim=True)
    return x_B3N / torch.where(mean_B31 > 0, mean_B31, 1.0)


def _by_range(x_B3N: Tensor, open_B1N: Tensor) -> Tensor:
    low_B31 = torch.where(open_B1N, x_B3N, torch.inf).amin(-1, keepdim=True)
    range_B31 = torch.where(open_B1N, x_B3N, -torch.inf).amax(-1, keepdim=True) - low_B31
    return (x_B3N - low_B31) / torch.where(range_B31 > 0, range_B31, 1.0)
