"""What the greedy kernels share: the picks that are given beforehand, and filling up what ended early."""

import torch
from torch import Tensor

from foveate.errors import PlanError
from foveate.ops.topk import check_k


def check_start(start_BS: Tensor | None, b: int, n: int, k: int) -> Tensor:
    """The given picks [B, S], none if there are none.

    Their values are looked at where looking is free, on a CPU.

    Raises:
        PlanError: k out of range, more picks than k, or picks that are out of range, repeated, or -1 where none may be.
    """
    check_k(k, n)
    if start_BS is None:
        return torch.empty(b, 0, dtype=torch.long)
    if start_BS.ndim != 2 or len(start_BS) != b or start_BS.shape[1] > k:
        raise PlanError(f"start has shape {tuple(start_BS.shape)}; it must be [{b}, at most k={k}]")
    if start_BS.device.type == "cpu" and start_BS.shape[1]:
        end_BS = start_BS < 0
        if end_BS[:, 0].any() or (end_BS[:, :-1] > end_BS[:, 1:]).any() or (start_BS >= n).any():
            raise PlanError(f"start must hold tokens 0 to {n - 1}, at least one an image, and -1 only after the last")
        order_BS = start_BS.sort(1).values
        if ((order_BS[:, 1:] == order_BS[:, :-1]) & (order_BS[:, 1:] >= 0)).any():
            raise PlanError("start holds a token twice; each can be picked once")
    return start_BS.long()


def given(start_BS: Tensor, step: int, pick_B: Tensor | None) -> Tensor:
    """The pick of one step: what was given, else what was found."""
    if step >= start_BS.shape[1]:
        assert pick_B is not None
        return pick_B
    fixed_B = start_BS[:, step]
    return fixed_B if pick_B is None else torch.where(fixed_B < 0, pick_B, fixed_B)


def fill(order_BK: Tensor, score_BN: Tensor) -> Tensor:
    """The picks, each -1 replaced by the open token of largest score; ties go to the lower index.

    Args:
        order_BK: different tokens, and -1 after the last.
        score_BN: what the rest is ranked by.
    """
    b, n = score_BN.shape
    k = order_BK.shape[1]
    shut_BN = torch.zeros(b, n + 1, dtype=torch.bool, device=score_BN.device)
    shut_BN.scatter_(1, torch.where(order_BK < 0, n, order_BK), True)
    # Two stable sorts: by score, then the open ones to the front.
    rank_BN = score_BN.double().sort(dim=1, descending=True, stable=True).indices
    late_BN = shut_BN[:, :n].gather(1, rank_BN)
    rest_BN = rank_BN.gather(1, late_BN.byte().sort(dim=1, stable=True).indices)
    missing_BK = order_BK < 0
    place_BK = (missing_BK.cumsum(1) - 1).clamp_(min=0)
    return torch.where(missing_BK, rest_BN[:, :k].gather(1, place_BK), order_BK)
