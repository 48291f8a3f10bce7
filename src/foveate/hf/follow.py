"""Passes that bring nothing to cut: decoding and further turns from a cache that was cut.

Where every layer lost the same tokens, the model's own masks fit once the padding mask is squeezed, and often nothing
has to be squeezed. Where one token sees everything, layers of any length need no mask. Only what is left over goes
layer by layer.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from foveate.hf.cache import cuts_of, given, kept_of, length
from foveate.hf.cut_layers import cut_layer, may_be_cut
from foveate.hf.kept import Kept, Told
from foveate.hf.wrappers import compiled


def light(cuts: list[Kept], call: Mapping[str, Any], kernel: str, by: object) -> dict[str, Any] | None:
    """What a language model must be told instead, so that its layers can go on by themselves; None: they cannot.

    Args:
        cuts: what was cut of its cache.
        call: its arguments by name.
        kernel: its attention implementation.
        by: what lives as long as the pass.
    """
    embeds, mask, ids = call.get("inputs_embeds"), call.get("attention_mask"), call.get("position_ids")
    if embeds is None or (mask is not None and mask.ndim != 2) or compiled():
        return None
    b, l = embeds.shape[:2]
    if any(kept.bias_BP is not None for kept in cuts):
        # A bias on keys is a mask of each layer's own.
        return None
    kept, told = cuts[0], cuts[0].told
    if not told.uniform and (b > 1 or l > 1 or kernel == "eager" or not told.free):
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
    bound = any(kept.filled or kept.shift_B is not None or kept.bias_BP is not None for kept in cuts)
    free = not padded and not bound
    told = Told(whole, free)
    for i, layer in enumerate(cache.layers):
        # Those that lost nothing as well: who may not go on must hear it from the first layer.
        if getattr(layer, "kept", None) is not None:
            layer.told = told
        elif may_be_cut(layer):
            cache.layers[i] = cut_layer(layer, None, told)
    for kept in cuts:
        kept.told = told
        if whole and (padded or kept.filled):
            kept.mask_BT = kept.squeeze(real()[:, : kept.covers])
