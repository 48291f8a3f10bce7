"""Weights by which dropped tokens live on in kept ones: from a home for each token to the matrix that mixes them."""

import torch
from torch import Tensor

from foveate.ops.cosine import Cosine


def slots(keep_BN: Tensor) -> Tensor:
    """[B, N]: the place of each kept token among the kept ones of its image; meaningless at dropped tokens."""
    return keep_BN.long().cumsum(1) - 1


def mixture(keep_BN: Tensor, home_BN: Tensor, weight_BN: Tensor, most: int | None = None) -> Tensor:
    """The matrix [B, K, N] that gives each kept slot the weighted sum of the tokens whose home it is.

    Args:
        keep_BN: what stays.
        home_BN: index of the kept token that each token goes into, its own for a kept one; negative: into none.
        weight_BN: with which weight.
        most: K, where it is known; else the largest count, which a device is waited for.
    """
    b, n = keep_BN.shape
    slot_BN = slots(keep_BN).gather(1, home_BN.clamp(min=0)).clamp(min=0)
    weight_BN = weight_BN.float().masked_fill(home_BN < 0, 0)
    mix_BKN = torch.zeros(b, int(keep_BN.sum(1).max()) if most is None else most, n, device=keep_BN.device)
    return mix_BKN.scatter_(1, slot_BN[:, None], weight_BN[:, None])


def averaged(keep_BN: Tensor, home_BN: Tensor, weight_BN: Tensor | None = None, most: int | None = None) -> Tensor:
    """As `mixture`, each slot divided by its sum of weights: the mean of what lives in it, or the weighted mean."""
    weight_BN = torch.ones_like(home_BN, dtype=torch.float32) if weight_BN is None else weight_BN
    mix_BKN = mixture(keep_BN, home_BN, weight_BN, most)
    return mix_BKN / mix_BKN.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def sizes(mix_KN: Tensor, before_N: Tensor) -> Tensor:
    """How many tokens each mixed one stands for, [K], at least 1: each of them counts once, by its shares of weight.

    Args:
        mix_KN: the weights; a token that goes into nobody is lost.
        before_N: how many each of them stood for.
    """
    share_KN = mix_KN.abs().float()
    share_KN = share_KN / share_KN.sum(0).clamp(min=torch.finfo(torch.float32).tiny)
    return (share_KN @ before_N.float()).clamp(min=1)


def nearest_kept(x_BND: Tensor, keep_BN: Tensor, at_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The kept token most like each token, and the cosine to it; kept tokens are their own. Ties: the lower index.

    Args:
        x_BND: features to compare by.
        keep_BN: what stays.
        at_BN: the kept tokens that may be chosen, by default all of them; every image needs one.
    """
    cosine = Cosine(x_BND)
    may_B1N = (keep_BN if at_BN is None else at_BN)[:, None]
    best, home = [], []
    for index_BM in cosine.chunks():
        value_BM, index = cosine.rows(index_BM).masked_fill(~may_B1N, -torch.inf).max(-1)
        best.append(value_BM)
        home.append(index)
    own_N = torch.arange(keep_BN.shape[1], device=keep_BN.device)
    home_BN = torch.where(keep_BN, own_N, torch.cat(home, 1))
    return home_BN, torch.where(keep_BN, 1.0, torch.cat(best, 1))
