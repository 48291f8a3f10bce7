"""Residual selection: each new token is the one whose part outside the span of those picked is longest."""

import numpy as np
import torch
from torch import Tensor

from foveate.errors import PlanError
from foveate.ops import falling
from foveate.ops.cosine import check_finite
from foveate.ops.roads import compiled, kernels, on_host
from foveate.ops.start import check_start, given


@torch.no_grad()
def residual(
    x_BND: Tensor, k: int, weight_BN: Tensor | None = None, start_BS: Tensor | None = None, tolerance: float = 1e-12
) -> Tensor:
    """Column-pivoted QR of the tokens (Businger and Golub 1965): the greedy of GOTS, ResPrune, CDPruner and MAP.

    Each step takes the open token i of largest w(i) * e(i), with e the squared length of what of x(i) lies outside the
    span of the picked ones. Lengths count; for determinantal choice among directions, hand in unit rows. Weighting by
    w is scaling rows by its root, as neither moves a span. Float64 throughout, O(N K D) time, O(N D + K D) memory.

    Args:
        x_BND: features in any floating type.
        k: how many, 1 to N.
        weight_BN: 0 or more; none is 1 for all.
        start_BS: tokens that are picked beforehand, in this order, -1 after the last; they count among the k.
        tolerance: a token is spanned, and never picked, where e(i) is at most this share of its own squared length.

    Returns:
        Indices [B, k] in picking order, the start first; ties go to the lower index. Where all tokens left are spanned
        the rank has ended, and the rest is -1; `start.fill` fills it up.

    Raises:
        PlanError: k or tolerance out of range, or a start that is no list of different tokens.
        SignalError: a feature is NaN or infinite.
    """
    b, n = x_BND.shape[:2]
    start_BS = check_start(start_BS, b, n, k)
    if not 0 <= tolerance < 1:
        raise PlanError(f"tolerance is {tolerance}; a share of the squared length is at least 0 and below 1")
    check_finite(x_BND)
    if kernels(x_BND):
        from foveate.ops.gpu.residual import residual as launch

        return launch(x_BND, k, weight_BN, start_BS, tolerance)
    x_BND = x_BND.double()
    left_BN = x_BND.square().sum(-1)
    weight_BN = torch.ones_like(left_BN) if weight_BN is None else weight_BN.double()
    if not on_host(x_BND):
        return _all_at_once(x_BND, left_BN, k, weight_BN, start_BS, tolerance)
    images = zip(x_BND, left_BN, weight_BN, start_BS, strict=True)
    if compiled(x_BND):
        return torch.stack([_compiled(x, e, k, w, s, tolerance * e) for x, e, w, s in images])
    return torch.stack([falling.pick(x, e, k, s, _Outside(x, w, tolerance * e)) for x, e, w, s in images])


def _compiled(x_ND: Tensor, left_N: Tensor, k: int, weight_N: Tensor, start_S: Tensor, least_N: Tensor) -> Tensor:
    from foveate.ops.compiled.residual import walk

    order_K, axis_KD = np.empty(k, np.int64), np.empty((k, x_ND.shape[1]))
    x, left, weight, least = (t.contiguous().numpy() for t in (x_ND, left_N.clone(), weight_N, least_N))
    walk(x, left, weight, least, start_S.numpy(), axis_KD, order_K)
    return torch.from_numpy(order_K)


class _Outside:
    """The state is what is left of the squared length; directions are orthonormal."""

    def __init__(self, x_ND: Tensor, weight_N: Tensor, least_N: Tensor) -> None:
        self.x_ND, self.weight_N, self.least_N = x_ND, weight_N, least_N
        self.axis_KD, self.count = x_ND.new_empty(0, x_ND.shape[1]), 0

    def value(self, state_M: Tensor, index_M: Tensor) -> Tensor:
        spanned_M = state_M <= self.least_N[index_M]
        return (self.weight_N[index_M] * state_M).masked_fill_(spanned_M, -torch.inf)

    def direction(self, pick: int) -> Tensor:
        if self.count == len(self.axis_KD):
            self.axis_KD = torch.cat((self.axis_KD, torch.empty_like(self.x_ND[: max(64, self.count)])))
        old_KD, axis_D = self.axis_KD[: self.count], self.x_ND[pick]
        # Twice is enough: what the first time leaves by rounding, the second takes away.
        for _ in range(2):
            axis_D = axis_D - old_KD.mT @ (old_KD @ axis_D)
        length = axis_D.norm()
        axis_D = axis_D / length if length.square() > self.least_N[pick] else torch.zeros_like(axis_D)
        self.axis_KD[self.count] = axis_D
        self.count += 1
        return axis_D

    def step(self, state_M: Tensor, product_M: Tensor, at: int) -> Tensor:
        return state_M - product_M.square()


def _all_at_once(
    x_BND: Tensor, left_BN: Tensor, k: int, weight_BN: Tensor, start_BS: Tensor, tolerance: float
) -> Tensor:
    """All images, all tokens, a pick at a time, and nothing is looked at."""
    b, n = left_BN.shape
    image_B, least_BN = torch.arange(b, device=x_BND.device), tolerance * left_BN
    shut_BN = torch.zeros_like(left_BN, dtype=torch.bool)
    order_BK = torch.full((b, k), -1, dtype=torch.long, device=x_BND.device)
    axis_BKD = x_BND.new_zeros(b, k, x_BND.shape[-1])
    part_BKN = x_BND.new_zeros(b, k, n)
    for step in range(k):
        out_BN = shut_BN | (left_BN <= least_BN)
        pick_B = given(start_BS, step, (weight_BN * left_BN).masked_fill_(out_BN, -torch.inf).argmax(1))
        ended_B = out_BN.all(1) if step >= start_BS.shape[1] else out_BN.all(1) & (start_BS[:, step] < 0)
        order_BK[:, step] = torch.where(ended_B, -1, pick_B)
        own_BK = part_BKN[image_B, :, pick_B]
        axis_BD = x_BND[image_B, pick_B] - torch.einsum("bk,bkd->bd", own_BK, axis_BKD)
        axis_BD = axis_BD / axis_BD.norm(dim=1, keepdim=True)
        axis_BD = axis_BKD[:, step] = axis_BD.masked_fill(out_BN[image_B, pick_B][:, None], 0)
        part_BN = part_BKN[:, step] = torch.einsum("bnd,bd->bn", x_BND, axis_BD)
        left_BN = left_BN - part_BN.square()
        shut_BN.scatter_(1, pick_B[:, None], True)
    return order_BK
