"""Passes that bring nothing to cut: decoding and further turns from a cache that was cut.

Where every layer lost the same tokens, the model's own masks fit once the padding mask is squeezed, and often nothing
has to be squeezed. Where one token sees everything, layers of any length need no mask. Only what is left over goes
layer by layer.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from foveate.hf.cache import cuts_of, given, kept_of, length
from foveate.hf.cut_layers import cut_layer, holds_keys, may_be_cut
from foveate.hf.kept import Kept, Told
from foveate.hf.wrappers import compiled


def light(kept: Kept, call: Mapping[str, Any], config: Any, by: object) -> dict[str, Any] | None:
    """What a language model must be told instead, so that its layers can go on by themselves; None: they cannot.

    Args:
        kept: what was cut of its cache, of the first layer that anything was cut of.
        call: its arguments by name.
        config: its config, which says how it attends.
        by: what lives as long as the pass.
    """
    embeds, mask, ids = call.get("inputs_embeds"), call.get("attention_mask"), call.get("position_ids")
    if embeds is None or (mask is not None and mask.ndim != 2) or compiled():
        return None
    b, l = embeds.shape[:2]
    told = kept.told
    if told.biased:
        # A bias on keys is a mask of each layer's own.
        return None
    if not told.uniform and (b > 1 or l > 1 or not told.free or config._attn_implementation == "eager"):
        # One token of one row sees all there is; others need masks of as many lengths as there are.
        return None
    told.lead(by, whole=False)
    new: dict[str, Any] = {}
    if told.free:
        if l == 1 and told.uniform and mask is not None:
            new["attention_mask"] = mask[:, kept.dropped :]
        return new
    if kept.mask_BT is not None:
        later = mask[:, kept.covers :] if mask is not None else None
        if later is None:
            past = length(given(call))
            later = torch.ones(b, past + l - kept.covers, dtype=torch.bool, device=embeds.device)
        # As the model slices it: dropped places first, which it never looks at. One token needs no places.
        gone = [] if l == 1 else [later.new_zeros(b, kept.dropped)]
        new["attention_mask"] = torch.cat((*gone, kept.mask_BT.to(later.device), later), 1)
    if kept.shift_B is not None:
        if ids is None:
            past = length(given(call))
            ids = (torch.arange(l, device=embeds.device) + past).unsqueeze(0)
        new["position_ids"] = ids - kept.shift_B.to(ids.device).unsqueeze(-1)
    return new


def settle(cache: Any, real: Callable[[], torch.Tensor], padded: bool) -> None:
    """After a cut: note what later passes can do without.

    Args:
        cache: the cache, its layers told what they stand for.
        real: () -> padding mask of the prompt, [B, positions told about].
        padded: whether it says that something is padding.
    """
    cuts = cuts_of(cache)
    whole = len(cuts) == 1 and all(kept_of(cache, i) is not None for i in range(len(cache.layers)))
    biased = any(kept.bias_BP is not None for kept in cuts)
    free = not (padded or biased or any(kept.filled or kept.shift_B is not None for kept in cuts))
    told = Told(whole, free, biased)
    first = next((i for i, layer in enumerate(cache.layers) if holds_keys(layer)), 0)
    for i, layer in enumerate(cache.layers):
        # Those that lost nothing as well: who may not go on must hear it from the first layer.
        if may_be_cut(layer):
            cache.layers[i] = cut_layer(layer, getattr(layer, "kept", None), told, guarded=i == first)
    for kept in cuts:
        kept.told = told
        if whole and (padded or kept.filled):
            kept.mask_BT = kept.squeeze(real()[:, : kept.covers])
