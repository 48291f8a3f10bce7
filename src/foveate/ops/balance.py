"""Greedy choice by relevance, diversity and coverage together, exact and without recomputing the coverage."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foveate.ops.cosine import CHUNK, Cosine, all_pairs, unit, whole
from foveate.ops.roads import compiled, kernels
from foveate.ops.start import check_start, given

Normalise = Literal["mean", "minmax"]

# Where all open tokens are equal, and 0 divides 0.
_LEAST = 1e-300


@torch.no_grad()
def balance(
    x_BND: Tensor,
    relevance_BN: Tensor,
    k: int,
    alpha: float = 0.5,
    lam: float = 0.5,
    normalise: Normalise = "mean",
    beta: float = 1.0,
    start_BS: Tensor | None = None,
) -> Tensor:
    """The greedy selection of TOPS (arXiv 2606.27161, Algorithms 1 and 2).

    With s(i, j) the cosine and m(j) the best s(i, j) over the picked i, each step takes the open token i of largest
    beta * relevance(i) + alpha * diversity(i) + lam * coverage(i), where diversity(i) = 1 - m(i) and coverage(i) is the
    sum over open j of max(0, s(i, j) - m(j)). Each criterion is first normalised over the open tokens.

    The coverage is kept up to date instead of recomputed: a pick changes it only through the columns whose m rose, a
    dozen of thousands in a typical step. Similarities are multiples of 2^-30 and sums are float64, so nothing is
    rounded and the picks are those of the full recomputation. It reads all N x N similarities; where they do not fit in
    memory they are computed again and again, and a warning says so.

    Args:
        x_BND: features in any floating type.
        relevance_BN: not negative; larger is more relevant.
        k: how many, 1 to N.
        alpha: weight of diversity.
        lam: weight of coverage; 0 leaves its cost out.
        normalise: "mean" divides by the mean of the open tokens, "minmax" maps their range to [0, 1].
        beta: weight of relevance; the paper's is 1.
        start_BS: tokens that are picked beforehand, in this order, -1 after the last; they count among the k. By
            default the most relevant one.

    Returns:
        Indices [B, k] in picking order, the start first; ties go to the lower index.

    Raises:
        PlanError: k out of range, or a start that is no list of different tokens.
    """
    b, n = relevance_BN.shape
    start_BS = check_start(relevance_BN.argmax(1, keepdim=True) if start_BS is None else start_BS, b, n, k)
    if kernels(x_BND):
        from foveate.ops.gpu.rising import rising

        weight_3 = (float(beta), float(alpha), float(lam))
        return rising(x_BND, k, normalise, relevance_BN, None, weight_3, start_BS, 0.0)
    fast = bool(lam) and compiled(x_BND)
    matrix = all_pairs(x_BND, 1 if fast else b) if lam else None
    if fast and matrix:
        weight_3 = (float(beta), float(alpha), float(lam))
        images = zip(unit(x_BND), relevance_BN.double(), start_BS, strict=True)
        return torch.stack([_compiled(x_ND, r_N, k, weight_3, normalise, s_S) for x_ND, r_N, s_S in images])
    cosine = Cosine(x_BND, matrix)
    scaled = _by_mean if normalise == "mean" else _by_range
    weight_31 = torch.tensor([[beta], [alpha], [lam]], dtype=torch.float64, device=x_BND.device)

    picks = [given(start_BS, 0, None)[:, None]]
    best_BN = cosine.rows(picks[0])[:, 0]
    criteria_B3N = torch.stack([relevance_BN.double(), 1 - best_BN.double(), torch.zeros_like(best_BN).double()], 1)
    diversity_BN, coverage_BN = criteria_B3N[:, 1], criteria_B3N[:, 2]
    if lam:
        for index_BM in cosine.chunks():
            best_BM1 = best_BN.gather(1, index_BM)[:, :, None]
            reached_BMN = torch.maximum(cosine.rows(index_BM), best_BM1)
            coverage_BN += reached_BMN.sum(1, dtype=torch.float64) - best_BM1.sum(1, dtype=torch.float64)
    shut_BN = torch.zeros(b, n, dtype=torch.bool, device=x_BND.device)
    while True:
        shut_BN.scatter_(1, picks[-1], True)
        if len(picks) == k:
            return torch.cat(picks, 1)
        score_BN = scaled(criteria_B3N, shut_BN, weight_31).sum(1)
        found_B = score_BN.masked_fill_(shut_BN, -torch.inf).argmax(1)
        picks.append(given(start_BS, len(picks), found_B)[:, None])
        row_BN = cosine.rows(picks[-1])[:, 0]
        if lam:
            _lower(coverage_BN, cosine, best_BN, row_BN)
        best_BN = torch.maximum(best_BN, row_BN)
        torch.sub(1, best_BN.double(), out=diversity_BN)


def _compiled(
    unit_ND: Tensor,
    relevance_N: Tensor,
    k: int,
    weight_3: tuple[float, float, float],
    normalise: Normalise,
    start_S: Tensor,
) -> Tensor:
    from foveate.ops.compiled.balance import walk

    order_K = np.empty(k, np.int64)
    walk(whole(unit_ND).numpy(), relevance_N.numpy(), weight_3, normalise == "mean", start_S.numpy(), order_K)
    return torch.from_numpy(order_K)


def _lower(coverage_BN: Tensor, cosine: Cosine, old_BN: Tensor, row_BN: Tensor) -> None:
    """Take from the coverage what the columns give no more whose best rises from `old_BN` to `row_BN`."""
    b, n = old_BN.shape
    image_R, index_R = (row_BN > old_BN).nonzero().unbind(1)
    for image, index in _parts(image_R, index_R, max(1, CHUNK // n)):
        low_R1, high_R1 = (x[image, index][:, None] for x in (old_BN, row_BN))
        # What a token covered of such a column, at most up to where it rises. The bounds are similarities: still exact.
        reached_RN = cosine.ragged(image, index).clamp_(low_R1, high_R1)
        if b == 1:
            coverage_BN -= reached_RN.sum(0, dtype=torch.float64).sub_(low_R1.sum(dtype=torch.float64))
        else:
            coverage_BN.index_add_(0, image, reached_RN.double().sub_(low_R1), alpha=-1)


def _parts(image_R: Tensor, index_R: Tensor, most: int) -> Iterable[tuple[Tensor, Tensor]]:
    # Splitting costs more than it looks: it is left out of the usual step.
    return ((image_R, index_R),) if len(index_R) <= most else zip(image_R.split(most), index_R.split(most), strict=True)


def _by_mean(x_B3N: Tensor, shut_BN: Tensor, weight_31: Tensor) -> Tensor:
    """Weighted, over the sum of the open tokens: their count changes no order."""
    # Of magnitudes: the plain sum for the criteria as defined, and no flip of sign for anyone else's.
    total_B31 = x_B3N.masked_fill(shut_BN[:, None], 0).abs_().sum(-1, keepdim=True)
    return x_B3N * (weight_31 / total_B31.clamp_(min=_LEAST))


def _by_range(x_B3N: Tensor, shut_BN: Tensor, weight_31: Tensor) -> Tensor:
    """Weighted, from 0 to 1 over the open tokens."""
    shut_B1N = shut_BN[:, None]
    low_B31 = x_B3N.masked_fill(shut_B1N, torch.inf).amin(-1, keepdim=True)
    high_B31 = x_B3N.masked_fill(shut_B1N, -torch.inf).amax(-1, keepdim=True)
    # Divided before weighted: the best by relevance and the best by diversity are then 1 both, and tie as they should.
    return ((x_B3N - low_B31) / (high_B31 - low_B31).clamp_(min=_LEAST)).mul_(weight_31)
