"""Weights by which dropped tokens live on in kept ones: from a home for each token to the matrix that mixes them."""

import torch
from torch import Tensor

from foveate.ops.cosine import Cosine, unit
from foveate.ops.topk import ranked


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


def averaged(keep_BN: Tensor, home_BN: Tensor, most: int | None = None) -> Tensor:
    """As `mixture` with equal weights that sum to 1 in each slot: the mean of what lives in it."""
    mix_BKN = mixture(keep_BN, home_BN, torch.ones_like(home_BN, dtype=torch.float32), most)
    return mix_BKN / mix_BKN.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def alone(keep_BN: Tensor, most: int) -> Tensor:
    """The matrix [B, K, N] that leaves each kept token as it is: where something merges, and nothing has to."""
    own_N = torch.arange(keep_BN.shape[1], device=keep_BN.device)
    return averaged(keep_BN, torch.where(keep_BN, own_N, -1), most=most)


def sizes(mix_KN: Tensor, before_N: Tensor) -> Tensor:
    """How many tokens each mixed one stands for, [K], at least 1: each of them counts once, by its shares of weight.

    Args:
        mix_KN: the weights; a token that goes into nobody is lost.
        before_N: how many each of them stood for.
    """
    share_KN = mix_KN.abs().float()
    share_KN = share_KN / share_KN.sum(0).clamp(min=torch.finfo(torch.float32).tiny)
    return (share_KN @ before_N.float()).clamp(min=1)


def nearest_kept(x_BND: Tensor, keep_BN: Tensor) -> tuple[Tensor, Tensor]:
    """The kept token most like each token, and the cosine to it; kept tokens are their own. Ties: the lower index.

    Args:
        x_BND: features to compare by.
        keep_BN: what stays; of every image something.
    """
    cosine = Cosine(x_BND)
    may_B1N = keep_BN[:, None]
    best, home = [], []
    for index_BM in cosine.chunks():
        value_BM, index = cosine.rows(index_BM).masked_fill(~may_B1N, -torch.inf).max(-1)
        best.append(value_BM)
        home.append(index)
    own_N = torch.arange(keep_BN.shape[1], device=keep_BN.device)
    home_BN = torch.where(keep_BN, own_N, torch.cat(home, 1))
    return home_BN, torch.where(keep_BN, 1.0, torch.cat(best, 1))


def nearest_others(keys_BNC: Tensor, picked_BK: Tensor, m: int) -> Tensor:
    """The m other tokens of most similar key, of equal ones the lower index: [B, K, m]."""
    unit_BNC, n = unit(keys_BNC), keys_BNC.shape[1]
    picked_BKC = unit_BNC.gather(1, picked_BK[:, :, None].expand(-1, -1, unit_BNC.shape[2]))
    with torch.autocast(unit_BNC.device.type, enabled=False):
        like_BKN = picked_BKC @ unit_BNC.mT
    # Whole steps of 2^-30 with the index below them: no two are equal, so no sort has to be stable.
    key_BKN = (like_BKN.double() * 2.0**30).round().long() * n - torch.arange(n, device=picked_BK.device)
    key_BKN.scatter_(2, picked_BK[:, :, None], torch.iinfo(torch.long).min)
    return key_BKN.topk(m).indices


def with_likes(
    weight_BN: Tensor, keys_BNC: Tensor, chosen_BN: Tensor, rest_B1: Tensor | None, m: int
) -> tuple[Tensor, Tensor]:
    """What stays [B, N], and its weights [B, K, N]: chosen tokens with their likes added, and one for the others.

    Args:
        weight_BN: by which tokens are added to others; a chosen one has itself at 1.
        keys_BNC: what likeness is measured on.
        chosen_BN: the chosen ones.
        rest_B1: the token in whose place the sum of all that are not chosen goes; None: they are lost.
        m: how many likes each gets.
    """
    b, n = chosen_BN.shape
    keep_BN = chosen_BN if rest_B1 is None else chosen_BN.scatter(1, rest_B1, True)
    mix_BKN = torch.zeros(b, int(keep_BN.sum(1).max()), n, device=weight_BN.device)
    # Images that keep fewer repeat their last token in the rows that nobody reads.
    picked_BK = ranked(keep_BN.float())[:, : mix_BKN.shape[1]]
    likes_BKM = nearest_others(keys_BNC, picked_BK, min(m, n - 1))
    weight_BKN = weight_BN[:, None].expand_as(mix_BKN)
    mix_BKN.scatter_(2, likes_BKM, weight_BKN.gather(2, likes_BKM)).scatter_(2, picked_BK[:, :, None], 1.0)
    if rest_B1 is not None:
        rest_B1N = weight_BN.masked_fill(chosen_BN, 0)[:, None]
        mix_BKN.scatter_(1, slots(keep_BN).gather(1, rest_B1)[:, :, None].expand(-1, -1, n), rest_B1N)
    return keep_BN, mix_BKN
