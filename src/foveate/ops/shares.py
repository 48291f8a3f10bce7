"""Whole numbers in proportion to weights, none above what its owner holds, and always summing to what was asked."""

import torch
from torch import Tensor


def shared_out(weight_BP: Tensor, k: int, room_P: Tensor) -> Tensor:
    """k divided over P owners of each image: the floor of each share, what that leaves one each to the heaviest.

    What exceeds an owner's room goes to the others in the same way, until all is placed.

    Args:
        weight_BP: not negative; owners of weight 0 get something only when nobody else has room. All 0 counts as equal.
        k: how many; at most the sum of the room.
        room_P: how many each owner can take.

    Returns:
        [B, P] whole numbers that sum to k in each row.
    """
    # An infinite weight is the largest there is, and no number at all is none.
    weight_BP = weight_BP.double().nan_to_num(0, 1e30, 0).clamp(min=0)
    given_BP = torch.zeros_like(weight_BP, dtype=torch.long)
    room_BP = room_P.expand_as(given_BP)
    while int((left_B1 := k - given_BP.sum(1, keepdim=True)).max()) > 0:
        open_BP = given_BP < room_BP
        share_BP = weight_BP * open_BP
        share_BP = torch.where(share_BP.sum(1, keepdim=True) > 0, share_BP, open_BP.double())
        part_BP = (share_BP / share_BP.sum(1, keepdim=True).clamp(min=1e-300) * left_B1).floor().long()
        # One each of what rounding left; stable, so that of equal owners the first gets it.
        rank_BP = share_BP.masked_fill(~open_BP, -1).sort(dim=1, descending=True, stable=True).indices.argsort(1)
        part_BP += (rank_BP < left_B1 - part_BP.sum(1, keepdim=True)) & open_BP
        given_BP = torch.minimum(given_BP + part_BP, room_BP)
    return given_BP
