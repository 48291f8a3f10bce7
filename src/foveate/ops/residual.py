"""Residual selection: each new token is the one whose part outside the span of those picked is longest."""

import torch
from torch import Tensor

from foveate.errors import PlanError
from foveate.ops.cosine import check_finite
from foveate.ops.start import check_start, given


@torch.no_grad()
def residual(
    x_BND: Tensor, k: int, weight_BN: Tensor | None = None, start_BS: Tensor | None = None, tolerance: float = 1e-12
) -> Tensor:
    """Column-pivoted QR of the tokens (Businger and Golub 1965): the greedy of GOTS, ResPrune, CDPruner and MAP.

    Each step takes the open token i of largest w(i) * e(i), with e the squared length of what of x(i) lies outside the
    span of the picked ones. Lengths count; for determinantal choice among directions, hand in unit rows. Weighting by
    w is scaling rows by its root, as neither moves a span. Float64 throughout, O(N K D) time, O(N (K + D)) memory.

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
    x_BND = x_BND.double()
    image_B = torch.arange(b, device=x_BND.device)
    left_BN = x_BND.square().sum(-1)
    least_BN = tolerance * left_BN
    weight_BN = torch.ones_like(left_BN) if weight_BN is None else weight_BN.double()
    shut_BN = torch.zeros_like(left_BN, dtype=torch.bool)
    order_BK = torch.full((b, k), -1, dtype=torch.long, device=x_BND.device)
    axis_BKD = x_BND.new_zeros(b, k, x_BND.shape[-1])
    part_BKN = x_BND.new_zeros(b, k, n)
    for step in range(k):
        out_BN = shut_BN | (left_BN <= least_BN)
        pick_B = (weight_BN * left_BN).masked_fill_(out_BN, -torch.inf).argmax(1)
        pick_B = given(start_BS, step, pick_B)
        ended_B = out_BN.all(1) if step >= start_BS.shape[1] else out_BN.all(1) & (start_BS[:, step] < 0)
        order_BK[:, step] = torch.where(ended_B, -1, pick_B)
        spanned_B = out_BN[image_B, pick_B]
        own_BK = part_BKN[image_B, :, pick_B]
        axis_BD = x_BND[image_B, pick_B] - torch.einsum("bk,bkd->bd", own_BK, axis_BKD)
        axis_BD = (axis_BD / axis_BD.norm(dim=1, keepdim=True)).masked_fill(spanned_B[:, None], 0)
        axis_BKD[:, step] = axis_BD
        part_BN = part_BKN[:, step] = torch.einsum("bnd,bd->bn", x_BND, axis_BD)
        left_BN = left_BN - part_BN.square()
        shut_BN.scatter_(1, pick_B[:, None], True)
    return order_BK
