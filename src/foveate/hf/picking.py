"""Maps of queries and keys, made by the model for every position, cut to the rows and columns that a layer has.

So windows, chunks, images that see themselves both ways, and whatever else a model's masks know of need no second
implementation: it is all in the mask over everything.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

RECURRENT = ("linear_attention", "conv", "mamba", "moe", "mlp")
"""Layer types, as configs name them, that do not attend: their masks, if any, are of padding."""


def flat_masks(config: Any) -> bool:
    """Whether this model's kernel takes padding masks, and knows order by itself, as FlashAttention does."""
    kernel = config._attn_implementation
    return kernel in ALL_MASK_ATTENTION_FUNCTIONS and ALL_MASK_ATTENTION_FUNCTIONS[kernel] is flash_attention_mask


def pick(map_BHQW: Tensor, rows_BM: Tensor | None, keys_BK: Tensor, total: int) -> Tensor:
    """Rows and columns of a map over every position: [B, H, M, K].

    Args:
        map_BHQW: its columns are the last W of `total` positions; B may be 1.
        rows_BM: which rows, -1 for filler; None for those it has.
        keys_BK: position of each key, -1 for filler. Filler, and keys before the map's first column, get that column.
        total: how many positions there are.
    """
    gone = total - map_BHQW.shape[3]
    column = (keys_BK - gone if gone else keys_BK).clamp(min=0).to(map_BHQW.device)
    x = map_BHQW.expand(keys_BK.shape[0], -1, -1, -1)
    heads = x.shape[1]
    if rows_BM is not None:
        at = rows_BM.clamp(min=0).to(x.device)
        x = x.gather(2, at[:, None, :, None].expand(-1, heads, -1, x.shape[3]))
    return x.gather(3, column[:, None, None].expand(-1, heads, x.shape[2], -1))


def pick_mask(
    mask: Tensor | None, rows_BM: Tensor | None, keys_BK: Tensor, alive_BA: Tensor | None, total: int, queries: int,
    length: int, flat: bool, filled: bool = True,
) -> Tensor | None:  # fmt: skip
    """An attention mask for the queries and keys that a layer has, from the mask over every position.

    Args:
        mask: [B or 1, H, Q, W] over the last W positions; [B, W] for kernels with flat masks; None: plainly causal.
        rows_BM: which of this pass's places ask, -1 for filler; None where the mask has these rows already.
        keys_BK: position of each key, -1 for filler.
        alive_BA: the positions that may be seen, where there are keys of others too (layers that share them).
        total: positions there are, those before this pass included.
        queries: how many the layer has.
        length: places of this pass.
        flat: the kernel takes padding masks.
        filled: there may be filler among the keys, or keys that are not alive.

    Returns:
        [B, H, M, K], [B, K], or None where nothing is to be masked but the future.
    """
    keys = keys_BK if mask is None else keys_BK.to(mask.device)
    if not filled and mask is None:
        return None
    if not filled and mask is not None and mask.ndim == 4 and mask.shape[-1] == total:
        return pick(mask, rows_BM, keys, total)
    there = keys >= 0
    if alive_BA is not None:
        there = there & (keys.unsqueeze(2) == alive_BA.to(keys.device).unsqueeze(1)).any(-1)
    if mask is None and bool(there.all()):
        return None
    if mask is not None:
        there = there & (keys >= total - mask.shape[-1])
    if flat or (mask is not None and mask.ndim == 2):
        return there if mask is None else mask.gather(1, (keys - total + mask.shape[1]).clamp(min=0)) * there
    if mask is None:
        first = total - length
        at = torch.arange(total - queries, total, device=keys.device)[None] if rows_BM is None else rows_BM + first
        return ((keys.unsqueeze(1) <= at.to(keys.device).unsqueeze(2)) & there.unsqueeze(1)).unsqueeze(1)
    out, away = pick(mask, rows_BM, keys, total), ~there[:, None, None]
    return out & ~away if out.dtype == torch.bool else out.masked_fill(away, torch.finfo(out.dtype).min)


def renumber(chosen_BMT: Tensor, old_BK: Tensor, new_BK: Tensor, total: int) -> Tensor:
    """Keys that an indexer chose among old ones, as numbers among new ones; those that went give way to the last.

    Args:
        chosen_BMT: their numbers.
        old_BK: position of each key when they were chosen, -1 for filler.
        new_BK: position of each key now.
        total: positions there are.
    """
    b = new_BK.shape[0]
    slot = torch.full((b, total + 1), -1, device=new_BK.device)
    number = torch.arange(new_BK.shape[1], device=new_BK.device).expand(b, -1)
    slot.scatter_(1, torch.where(new_BK < 0, total, new_BK), number)
    slot[:, -1] = -1
    position = old_BK.gather(1, chosen_BMT.long().flatten(1))
    now = slot.gather(1, torch.where(position < 0, total, position)).view_as(chosen_BMT)
    return torch.where(now < 0, now.max(-1, keepdim=True).values.clamp(min=0), now).to(chosen_BMT.dtype)
