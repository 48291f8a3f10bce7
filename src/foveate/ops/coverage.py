"""Greedy coverage: each new token is the one that adds most to how well the picked ones stand for all others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.errors import PlanError
from foveate.ops import steady
from foveate.ops.cosine import ONE, Cosine, all_pairs, unit, whole
from foveate.ops.doubts import insist_finite
from foveate.ops.roads import compiled, groups, kernels
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
    Compiled, gains are kept up to date in whole numbers, which rounds nothing. With weights, and in torch, the greedy
    is lazy (Minoux 1978): a gain only ever falls, so a token whose old gain is below another's present one need not be
    looked at; off the CPU, where looking is waiting, all gains are computed at every pick. Either way the picks are
    those of the full recomputation. It reads all N x N similarities; where they do not fit in memory rows are computed
    as they are needed, and a warning says so.

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
    if not -1 <= floor <= 1:
        raise PlanError(f"floor is {floor}; a similarity lies between -1 and 1")
    if weight_BN is None and kernels(x_BND):
        from foveate.ops.gpu.rising import rising

        return rising(x_BND, k, "coverage", value_BN, bonus_BN, (1.0, 1.0, 1.0), start_BS, floor)
    if steady.serves(x_BND, n, n):
        found = []
        for some in groups(x_BND):
            weights = [None if w is None else w[some].double() for w in (weight_BN, value_BN, bonus_BN)]
            found.append(
                steady.steady(Cosine(x_BND[some]).every(), round(floor * ONE) / ONE, k, start_BS[some], *weights)
            )
        return torch.cat(found)
    fast, matrix = compiled(x_BND), all_pairs(x_BND, 1)
    out = []
    for image, (unit_ND, start_S) in enumerate(zip(unit(x_BND), start_BS, strict=True)):
        weights = [None if w is None else w[image].double() for w in (weight_BN, value_BN, bonus_BN)]
        if fast and matrix:
            out.append(_compiled(unit_ND, k, weights, start_S, floor))
            continue
        cosine = Cosine(x_BND[image : image + 1], matrix)
        best_N = torch.full((n,), round(floor * ONE) / ONE, device=x_BND.device)
        out.append(_lazy(lambda at_M, c=cosine: c.rows(at_M[None])[0], n, best_N, k, start_S, *weights))  # type: ignore[misc]
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
    b, r, n = matrix_BRN.shape
    start_BS = check_start(start_BS, b, n, k)
    if steady.serves(matrix_BRN, n, r):
        insist_finite(matrix_BRN, _holed)
        weights = [None if w is None else w.double() for w in (weight_BR, value_BN, bonus_BN)]
        return steady.steady(matrix_BRN.mT, floor, k, start_BS, *weights)
    out = []
    for image, matrix_RN in enumerate(matrix_BRN):
        matrix_NR = matrix_RN.double().mT.contiguous()
        insist_finite(matrix_NR, _holed)
        least_R = matrix_NR.new_full((matrix_NR.shape[1],), floor)
        weights = [None if w is None else w[image].double() for w in (weight_BR, value_BN, bonus_BN)]
        if compiled(matrix_BRN):
            out.append(_compiled_lazy(matrix_NR, least_R, 1.0, k, weights, start_BS[image]))
        else:
            out.append(_lazy(matrix_NR.__getitem__, n, least_R, k, start_BS[image], *weights))
    return torch.stack(out)


def _compiled(unit_ND: Tensor, k: int, weights: list[Tensor | None], start_S: Tensor, floor: float) -> Tensor:
    from foveate.ops.compiled.coverage import walk

    similar_NN = whole(unit_ND)
    best_N = torch.full((len(unit_ND),), round(floor * ONE), dtype=torch.int32)
    if weights[0] is not None:
        return _compiled_lazy(similar_NN, best_N, 1 / ONE, k, weights, start_S)
    order_K = np.empty(k, np.int64)
    value_N, bonus_N = map(_numbers, weights[1:])
    walk(similar_NN.numpy(), best_N.numpy(), value_N, bonus_N, start_S.numpy(), order_K)
    return torch.from_numpy(order_K)


def _compiled_lazy(
    rows_NR: Tensor, best_R: Tensor, unit: float, k: int, weights: list[Tensor | None], start_S: Tensor
) -> Tensor:
    from foveate.ops.compiled.coverage import lazy

    order_K = np.empty(k, np.int64)
    weight_R, value_N, bonus_N = map(_numbers, weights)
    lazy(rows_NR.numpy(), best_R.numpy(), weight_R, value_N, bonus_N, unit, start_S.numpy(), order_K)
    return torch.from_numpy(order_K)


def _numbers(weight_N: Tensor | None) -> Any:
    return np.empty(0) if weight_N is None else np.ascontiguousarray(weight_N.numpy())


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


def _holed() -> PlanError:
    return PlanError("the matrix holds NaN or infinity, so nothing covers anything; check what it was made of")
