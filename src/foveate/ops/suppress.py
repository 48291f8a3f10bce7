"""Suppression: visit tokens by score; each one picked takes score from its like, or takes its like away."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foveate.errors import PlanError
from foveate.ops import falling
from foveate.ops.cosine import ONE, Cosine, matrix_pays, steps, unit, whole
from foveate.ops.roads import compiled, kernels, on_host
from foveate.ops.start import check_start, given

Soften = Literal["square", "linear"]


@torch.no_grad()
def suppress(
    x_BND: Tensor,
    score_BN: Tensor,
    k: int,
    radius: float | Tensor | None = None,
    soften: Soften | None = None,
    start_BS: Tensor | None = None,
) -> Tensor:
    """Non-maximum suppression by cosine: the greedy of SIEVE (soft), RoRA's context and AgilePruner (hard).

    Each step takes the open token of largest score. Then every other token whose cosine distance 1 - cos to it is below
    the radius goes, and the scores of the rest are multiplied by 1 - cos^2 ("square") or 1 - max(0, cos) ("linear").

    Args:
        x_BND: features in any floating type; similarities are float32, scores float64.
        score_BN: larger goes first; at least 0 where scores are softened.
        k: how many, 1 to N.
        radius: one cosine distance, or one a pick, [k] or [B, k]; None takes nobody away.
        soften: how scores fall; None leaves them.
        start_BS: tokens that are picked beforehand, in this order, -1 after the last; they count among the k, and
            suppress like others.

    Returns:
        Indices [B, k] in picking order, the start first; ties go to the lower index. Where everyone else was taken away
        the rest is -1; `start.fill` fills it up.

    Raises:
        PlanError: k out of range, a start that is no list of different tokens, an unknown way to soften, or a radius of
            another shape.
    """
    b, n = score_BN.shape
    start_BS = check_start(start_BS, b, n, k)
    if soften not in (None, "square", "linear"):
        raise PlanError(f'soften is {soften!r}; it must be None, "square" or "linear"')
    if soften and score_BN.device.type == "cpu" and (score_BN < 0).any():
        raise PlanError(
            f"the least score is {float(score_BN.min())}; softened scores must be 0 or more, so that they fall"
        )
    radius_BK = _radii(radius, b, k, x_BND)
    score_BN = score_BN.double()
    if kernels(x_BND):
        from foveate.ops.gpu.suppress import suppress as launch

        return launch(x_BND, score_BN, k, radius_BK, soften, start_BS)
    if not on_host(x_BND):
        return _all_at_once(Cosine(x_BND), score_BN, k, radius_BK, soften, start_BS)
    out = []
    matrix = compiled(x_BND) and matrix_pays(n, k, x_BND.shape[2])
    for image, (unit_ND, score_N, start_S) in enumerate(zip(unit(x_BND), score_BN, start_BS, strict=True)):
        radius_K = None if radius_BK is None else radius_BK[image]
        if matrix:
            out.append(_compiled(unit_ND, score_N, k, radius_K, soften, start_S))
            continue
        out.append(falling.pick(unit_ND, score_N, k, start_S, _Like(unit_ND, radius_K, soften)))
    return torch.stack(out)


def _compiled(
    unit_ND: Tensor, score_N: Tensor, k: int, radius_K: Tensor | None, soften: Soften | None, start_S: Tensor
) -> Tensor:
    from foveate.ops.compiled.suppress import WAYS, walk

    order_K, radii = np.empty(k, np.int64), np.empty(0) if radius_K is None else radius_K.contiguous().numpy()
    walk(whole(unit_ND).numpy(), score_N.clone().numpy(), radii, WAYS[soften], start_S.numpy(), order_K)
    return torch.from_numpy(order_K)


class _Like:
    """The state is the score that is left, -inf of who was taken away; directions are unit rows."""

    def __init__(self, unit_ND: Tensor, radius_K: Tensor | None, soften: Soften | None) -> None:
        self.unit_ND, self.radius_K, self.soften = unit_ND, radius_K, soften

    def value(self, state_M: Tensor, index_M: Tensor) -> Tensor:
        return state_M

    def direction(self, pick: int) -> Tensor:
        return self.unit_ND[pick]

    def step(self, state_M: Tensor, product_M: Tensor, at: int) -> Tensor:
        near_M = steps(product_M).double() / ONE
        if self.soften:
            # Not 0 times -inf, which is no number.
            state_M = torch.where(state_M > -torch.inf, state_M * _factor(near_M, self.soften), state_M)
        return state_M if self.radius_K is None else state_M.masked_fill(1 - near_M < self.radius_K[at], -torch.inf)


def _factor(near: Tensor, soften: Soften) -> Tensor:
    return 1 - (near.square() if soften == "square" else near.clamp(min=0))


def _all_at_once(
    similar: Cosine, score_BN: Tensor, k: int, radius_BK: Tensor | None, soften: Soften | None, start_BS: Tensor
) -> Tensor:
    """All images, all tokens, a pick at a time, and nothing is looked at."""
    out_BN = torch.zeros_like(score_BN, dtype=torch.bool)
    order_BK = torch.full((len(score_BN), k), -1, dtype=torch.long, device=score_BN.device)
    for step in range(k):
        pick_B = given(start_BS, step, score_BN.masked_fill(out_BN, -torch.inf).argmax(1))
        over_B = out_BN.all(1)
        if step < start_BS.shape[1]:
            over_B = over_B & (start_BS[:, step] < 0)
        order_BK[:, step] = torch.where(over_B, -1, pick_B)
        row_BN = similar.rows(pick_B[:, None])[:, 0].double()
        if soften:
            score_BN = score_BN * _factor(row_BN, soften)
        if radius_BK is not None:
            out_BN = out_BN | (1 - row_BN < radius_BK[:, step, None])
        out_BN = out_BN.scatter(1, pick_B[:, None], True)
    return order_BK


def _radii(radius: float | Tensor | None, b: int, k: int, like: Tensor) -> Tensor | None:
    if radius is None:
        return None
    radius = torch.as_tensor(radius, dtype=torch.float64, device=like.device)
    if radius.shape not in ((), (k,), (b, k)):
        raise PlanError(f"radius has shape {tuple(radius.shape)}; it must be one number, [{k}] or [{b}, {k}]")
    return radius.expand(b, k)


@torch.no_grad()
def peaks(x_BND: Tensor, score_BN: Tensor, reverse: bool = False) -> Tensor:
    """All scores suppressed at once, to rank by: s(i) * (1 - max(0, the best cos(i, j) over the j that outrank i)).

    Density peaks: a token counts as far as nothing better is like it (SFPruner, RESTORE's anchors). The best token has
    nobody above it and keeps its score, as do those that only opposites outrank; of equal scores the lower index
    outranks the other. O(N^2 D) whatever the count, a few rows at a time.

    Args:
        x_BND: features in any floating type.
        score_BN: 0 or more.
        reverse: compare with those that i outranks instead, as RESTORE's released mask does.

    Returns:
        New scores [B, N], float64.
    """
    cosine = Cosine(x_BND)
    # Each token's place in the order; a stable sort, so that equals stand as they come.
    place_BN = score_BN.double().sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
    nearest = []
    for index_BM in cosine.chunks():
        mine_BM1, all_B1N = place_BN.gather(1, index_BM)[:, :, None], place_BN[:, None]
        outranked_BMN = all_B1N < mine_BM1 if reverse else all_B1N > mine_BM1
        nearest.append(cosine.rows(index_BM).masked_fill_(outranked_BMN | (all_B1N == mine_BM1), 0.0).amax(2))
    return score_BN.double() * (1 - torch.cat(nearest, 1).double().clamp_(min=0))
