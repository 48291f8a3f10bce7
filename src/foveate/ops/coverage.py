"""Greedy coverage: each new token is the one that adds most to how well the picked ones stand for all others."""

from collections.abc import Callable

import torch
from torch import Tensor

from foveate.errors import PlanError
from foveate.ops.cosine import Cosine
from foveate.ops.start import check_start

_AT_ONCE = 32
"""Candidates worked out anew at a time."""


@torch.no_grad()
def coverage(
    x_BND: Tensor,
    k: int,
    weight_BN: Tensor | None = None,
    value_BN: Tensor | None = None,
    bonus_BN: Tensor | None = None,
    start_BS: Tensor | None = None,
    floor: float = 0.0,
) -> Tensor:
    """Facility location by cosine similarity s, with m(j) the best s(i, j) over the picked i, at least `floor`.

    Each step takes the open token i of largest bonus(i) + value(i) * sum over all j of w(j) * max(0, s(i, j) - m(j)).
    A gain only ever falls, so a token whose old gain is below another's present one need not be looked at (lazy greedy,
    Minoux 1978): a few rows of similarities a pick, and the picks are those of the full recomputation.

    Args:
        x_BND: features in any floating type; similarities are float32, sums float64.
        k: how many, 1 to N.
        weight_BN: of what is covered, 0 or more; none is 1 for all (EADP, MiCo).
        value_BN: of who covers, 0 or more; none is 1 for all (SCOPE).
        bonus_BN: what a token is worth besides.
        start_BS: tokens that are picked beforehand, in this order, -1 after the last; they count among the k.
        floor: 0 counts positive similarities alone; -1 counts all, as (1 + cos) / 2 does up to a factor of two.

    Returns:
        Indices [B, k] in picking order, the start first; ties go to the lower index. Always k different ones: where
        nothing is left to gain, tokens come in order.

    Raises:
        PlanError: k out of range, or a start that is no list of different tokens.
    """
    b, n = x_BND.shape[:2]
    start_BS = check_start(start_BS, b, n, k)
    out = []
    for image in range(b):
        cosine = Cosine(x_BND[image : image + 1])

        def rows(index_M: Tensor, cosine: Cosine = cosine) -> Tensor:
            return cosine.rows(index_M[None])[0]

        weights = [None if w is None else w[image] for w in (weight_BN, value_BN, bonus_BN)]
        out.append(_lazy(rows, n, torch.full((n,), floor, device=x_BND.device), k, start_BS[image], *weights))
    return torch.stack(out)


@torch.no_grad()
def cover(
    matrix_BRN: Tensor,
    k: int,
    weight_BR: Tensor | None = None,
    value_BN: Tensor | None = None,
    bonus_BN: Tensor | None = None,
    start_BS: Tensor | None = None,
    floor: float = 0.0,
) -> Tensor:
    """`coverage` of any R things by N tokens: matrix[r, i] says how far token i covers thing r (MMTok)."""
    b, _, n = matrix_BRN.shape
    start_BS = check_start(start_BS, b, n, k)
    out = []
    for image, matrix_RN in enumerate(matrix_BRN):
        matrix_NR = matrix_RN.mT.contiguous()
        if not torch.isfinite(matrix_NR).all():
            raise PlanError("the matrix holds NaN or infinity, so nothing covers anything; check what it was made of")
        least_R = matrix_NR.new_full((matrix_NR.shape[1],), floor)
        weights = [None if w is None else w[image] for w in (weight_BR, value_BN, bonus_BN)]
        out.append(_lazy(matrix_NR.__getitem__, n, least_R, k, start_BS[image], *weights))
    return torch.stack(out)


def _lazy(
    rows: Callable[[Tensor], Tensor],
    n: int,
    best_R: Tensor,
    k: int,
    start_S: Tensor,
    weight_R: Tensor | None,
    value_N: Tensor | None,
    bonus_N: Tensor | None,
) -> Tensor:
    """One image's picks. `rows` gives what tokens [M] cover, [M, R]."""
    device = best_R.device
    bound_N = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
    fresh_N = torch.zeros(n, dtype=torch.bool, device=device)
    shut_N = torch.zeros(n, dtype=torch.bool, device=device)
    weight_R = None if weight_R is None else weight_R.double()
    picks: list[int] = []
    while len(picks) < k:
        pick = int(start_S[len(picks)]) if len(picks) < len(start_S) else -1
        while pick < 0:
            top = int(bound_N.argmax())
            if fresh_N[top]:
                pick = top
                break
            # The largest bounds with it: they are likely to be asked for next.
            index_M = bound_N.masked_fill(fresh_N, -torch.inf).topk(min(_AT_ONCE, n)).indices
            index_M = torch.cat((index_M.new_tensor([top]), index_M))
            gain_M = _gain(rows(index_M), best_R, weight_R)
            if value_N is not None:
                gain_M = gain_M * value_N[index_M]
            if bonus_N is not None:
                gain_M = gain_M + bonus_N[index_M]
            bound_N[index_M] = gain_M.masked_fill_(shut_N[index_M], -torch.inf)
            fresh_N[index_M] = True
        picks.append(pick)
        bound_N[pick], shut_N[pick] = -torch.inf, True
        best_R = torch.maximum(best_R, rows(torch.tensor([pick], device=device))[0])
        fresh_N.zero_()
    return torch.tensor(picks, device=device)


def _gain(rows_MR: Tensor, best_R: Tensor, weight_R: Tensor | None) -> Tensor:
    # In float64 differences of similarities are exact. Row by row, so that a bound and its renewal round alike.
    more_MR = (rows_MR.double() - best_R.double()).clamp_(min=0)
    return (more_MR if weight_R is None else more_MR.mul_(weight_R)).sum(1)
