"""Farthest-point selection: each new token is the one least like anything already picked."""

import numpy as np
import torch
from torch import Tensor

from foveate.ops import cosine, falling
from foveate.ops.cosine import ONE, Cosine
from foveate.ops.roads import compiled, kernels, on_host
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

    Memory is one N x N matrix an image, or O(N) beside the features above `cosine.GRAM_LIMIT` tokens and where a start
    makes it needless.

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
    weight_BN = None if weight_BN is None else weight_BN.double()
    if kernels(x_BND):
        from foveate.ops.gpu.farthest import farthest as launch

        return launch(x_BND, k, weight_BN, start_BS, cap, _TIE)
    if not on_host(x_BND):
        return _all_at_once(Cosine(x_BND), k, weight_BN, start_BS, cap)
    pick = _few
    if compiled(x_BND):
        # Of k rows the walk looks at some pairs, each at 4 times the cost of one in a matrix.
        pick = _matrix if n <= cosine.GRAM_LIMIT and 3 * k > n else _lazy
    unit_BND, out = cosine.unit(x_BND), []
    for image, (unit_ND, start_S) in enumerate(zip(unit_BND, start_BS, strict=True)):
        out.append(pick(unit_ND, k, None if weight_BN is None else weight_BN[image], start_S, cap))
    return torch.stack(out)


def gaps(x_BND: Tensor, order_BK: Tensor) -> Tensor:
    """Cosine distance of each pick to the nearest before it, [B, K]: 2 for the first, and never growing.

    Args:
        x_BND: features.
        order_BK: picks, in order, as `farthest` gives them.
    """
    unit_BKD = cosine.unit(x_BND.gather(1, order_BK[:, :, None].expand(-1, -1, x_BND.shape[2])))
    like_BKK = cosine.steps(cosine.product(unit_BKD, unit_BKD.mT)).div_(ONE)
    later_KK = torch.ones(like_BKK.shape[1:], dtype=torch.bool, device=x_BND.device).triu()
    # What is left never gets farther along the picks; the rounding of a product must not make it.
    return 1 - like_BKK.masked_fill_(later_KK, -1.0).amax(2).cummax(1).values


def _lazy(unit_ND: Tensor, k: int, weight_N: Tensor | None, start_S: Tensor, cap: float) -> Tensor:
    from foveate.ops.compiled import farthest as loops

    if not len(start_S):
        first = _alone(unit_ND, weight_N)
        if first is None and len(unit_ND) <= cosine.GRAM_LIMIT:
            return _matrix(unit_ND, k, weight_N, start_S, cap)
        start_S = (_lonely(*_isolation(unit_ND), weight_N) if first is None else first)[None]
    order_K = np.empty(k, np.int64)
    weights = np.empty(0) if weight_N is None else weight_N.numpy()
    loops.lazy(unit_ND.contiguous().numpy(), weights, start_S.numpy(), (1 - cap) * ONE, order_K)
    return torch.from_numpy(order_K)


def _matrix(unit_ND: Tensor, k: int, weight_N: Tensor | None, start_S: Tensor, cap: float) -> Tensor:
    from foveate.ops.compiled import farthest as loops

    n = len(unit_ND)
    similar_NN, order_K = cosine.whole(unit_ND).numpy(), np.empty(k, np.int64)
    first = 0
    if not len(start_S):
        near_N, total_N = np.empty(n, np.int32), np.empty(n, np.int64)
        loops.isolation(similar_NN, near_N, total_N)
        first = int(_lonely(torch.from_numpy(near_N) / ONE, torch.from_numpy(total_N).double() / ONE, weight_N))
    weights = np.empty(0) if weight_N is None else weight_N.numpy()
    loops.walk(similar_NN, weights, start_S.numpy(), first, np.int32((1 - cap) * ONE), order_K)
    return torch.from_numpy(order_K)


def _few(unit_ND: Tensor, k: int, weight_N: Tensor | None, start_S: Tensor, cap: float) -> Tensor:
    if not len(start_S):
        start_S = _lonely(*_isolation(unit_ND), weight_N)[None]
    near_N = torch.full((len(unit_ND),), 1 - cap, dtype=torch.float64)
    return falling.pick(unit_ND, near_N, k, start_S, _Near(unit_ND, weight_N))


class _Near:
    """The state is the best similarity to a picked token; directions are unit rows."""

    def __init__(self, unit_ND: Tensor, weight_N: Tensor | None) -> None:
        self.unit_ND, self.weight_N = unit_ND, weight_N

    def value(self, state_M: Tensor, index_M: Tensor) -> Tensor:
        far_M = 1 - state_M
        return far_M if self.weight_N is None else self.weight_N[index_M] * far_M

    def direction(self, pick: int) -> Tensor:
        return self.unit_ND[pick]

    def step(self, state_M: Tensor, product_M: Tensor, at: int) -> Tensor:
        return torch.maximum(state_M, cosine.steps(product_M).double() / ONE)


def _isolation(unit_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's best similarity to another, and the sum of its similarities, without the matrix."""
    n = len(unit_ND)
    near_N, total_N = torch.full((n,), -2.0), torch.zeros(n, dtype=torch.float64)
    rows = max(1, cosine.CHUNK // n)
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        # What later rows say of these is what these say of later ones.
        part_RM = cosine.steps(cosine.product(unit_ND[start:stop], unit_ND[start:].mT)).div_(ONE)
        part_RM.fill_diagonal_(1.0)
        total_N[start:stop] += part_RM.sum(1, dtype=torch.float64)
        total_N[stop:] += part_RM[:, stop - start :].sum(0, dtype=torch.float64)
        part_RM.fill_diagonal_(-2.0)
        near_N[start:stop] = torch.maximum(near_N[start:stop], part_RM.amax(1))
        near_N[start:] = torch.maximum(near_N[start:], part_RM.amax(0))
    return near_N, total_N


def _alone(unit_ND: Tensor, weight_N: Tensor | None) -> Tensor | None:
    """The first pick, from the rows of those that may be it; None where an eighth or so of all rows did not tell.

    How near a token's neighbours in the image are bounds how far its nearest other token is.
    """
    n = len(unit_ND)
    near_N, total_N = torch.full((n,), -2.0), torch.zeros(n, dtype=torch.float64)
    beside_M = cosine.steps((unit_ND[1:] * unit_ND[:-1]).sum(1)).div_(ONE)
    near_N[1:], near_N[:-1] = beside_M, torch.maximum(near_N[:-1], beside_M)
    known_N = torch.zeros(n, dtype=torch.bool)
    slack = _TIE if weight_N is None else _TIE * float(weight_N.max())
    rows = max(16, min(n // 64, 4 * cosine.CHUNK // n))
    for _ in range(9):
        far_N = 1 - near_N.double() if weight_N is None else weight_N * (1 - near_N.double())
        waits_N = far_N.masked_fill(known_N, -torch.inf)
        if float(waits_N.max()) < float(far_N.masked_fill(~known_N, -torch.inf).max()) - slack:
            return _lonely(near_N.masked_fill(~known_N, 3.0), total_N, weight_N)
        index_R = waits_N.topk(min(rows, n)).indices
        rows_RN = cosine.steps(cosine.product(unit_ND[index_R], unit_ND.mT)).div_(ONE)
        rows_RN.scatter_(1, index_R[:, None], 1.0)
        total_N[index_R] = rows_RN.sum(1, dtype=torch.float64)
        rows_RN.scatter_(1, index_R[:, None], -2.0)
        near_N = torch.maximum(near_N, rows_RN.amax(0))
        near_N[index_R] = torch.maximum(near_N[index_R], rows_RN.amax(1))
        known_N[index_R] = True
    return None


def _lonely(near_N: Tensor, total_N: Tensor, weight_N: Tensor | None) -> Tensor:
    """The first pick, of one image or (all tensors with a batch axis) of many."""
    far_N = 1 - near_N.double()
    slack: Tensor | float = _TIE
    if weight_N is not None:
        # Of distances of 2 at most; weighted ones are compared on their own scale.
        far_N, slack = weight_N * far_N, _TIE * weight_N.amax(-1, keepdim=True)
    tied_N = far_N >= far_N.amax(-1, keepdim=True) - slack
    return total_N.masked_fill(~tied_N, torch.inf).argmin(-1)


def _all_at_once(similar: Cosine, k: int, weight_BN: Tensor | None, start_BS: Tensor, cap: float) -> Tensor:
    """All images, all tokens, a pick at a time, and nothing is looked at."""
    b, n = similar.shape
    device = similar.unit_BND.device
    order_BK = torch.empty(b, k, dtype=torch.long, device=device)
    near_BN = torch.full((b, n), 1 - cap, device=device)
    pick_B = None if start_BS.shape[1] else _most_isolated(similar, weight_BN)
    for step in range(k):
        pick_B = order_BK[:, step] = given(start_BS, step, pick_B)
        # A picked token's likeness is 1 by definition; 2 keeps it behind exact copies of itself too.
        near_BN = torch.maximum(near_BN, similar.rows(pick_B[:, None])[:, 0]).scatter_(1, pick_B[:, None], 2.0)
        pick_B = near_BN.argmin(1) if weight_BN is None else _weighted(near_BN, weight_BN)
    return order_BK


def _weighted(near_BN: Tensor, weight_BN: Tensor) -> Tensor:
    value_BN = weight_BN * (1 - near_BN.double())
    return value_BN.masked_fill_(near_BN > 1, -torch.inf).argmax(1)


def _most_isolated(similar: Cosine, weight_BN: Tensor | None) -> Tensor:
    nearest, total = [], []
    for index_BM in similar.chunks():
        rows_BMN = similar.rows(index_BM)
        total.append(rows_BMN.sum(-1, dtype=torch.float64))
        nearest.append(rows_BMN.scatter_(2, index_BM[:, :, None], -2.0).amax(-1))
    return _lonely(torch.cat(nearest, 1), torch.cat(total, 1), weight_BN)
