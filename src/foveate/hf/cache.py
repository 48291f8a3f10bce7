"""A KV cache that is shorter than the prompt it stands for, and still answers with the prompt's length.

What was cut belongs to the cache, layer by layer, not to the attachment: so threads, beams and later turns find it.
A cut layer tells transformers its logical length and nothing else, so that masks, tables and positions are made as if
nothing had gone; what a layer lacks is then picked out of them (`layers.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from foveate.errors import ModelError
from foveate.hf.cut_layers import KNOWN, WHOLE, Cuttable, cut_layer, holds_keys
from foveate.hf.kept import Kept

NAMES = ("cache", "past_key_values")
"""What transformers calls a cache, in arguments and in outputs: since 5.24, and before."""


def given(kwargs: Mapping[str, Any]) -> Any:
    """The cache among a call's arguments, or None."""
    for name in NAMES:
        if (cache := kwargs.get(name)) is not None:
            return cache
    return None


def left(output: Any) -> Any:
    """The cache in a model's output, or None."""
    return next((output[name] for name in NAMES if name in output), None)


def widen(cache: Any) -> None:
    """Let sliding cache layers hold everything from here on: a window counts what was dropped too."""
    for i, layer in enumerate(cache.layers):
        if type(layer).__name__ in WHOLE:
            kept = None
            if layer.is_initialized and layer.keys.numel() and (held := layer.keys.shape[-2]) < layer.get_seq_length():
                seen = layer.get_seq_length()
                index = torch.arange(seen - held, seen, device=layer.keys.device)
                kept = Kept(index.expand(layer.keys.shape[0], -1), seen, None, False)
            cache.layers[i] = cut_layer(layer, kept)


_CHECKED = "_foveate_checked"
"""Of how many layers a cache is known to be cuttable: it is asked about with every token."""


def check_cache(cache: Any) -> None:
    """Refuse caches that cannot be cut.

    Raises:
        ModelError: a static or quantised cache, or something that is no transformers cache.
    """
    if cache is None:
        return
    known = getattr(cache, _CHECKED, None)
    if known is not None and known == len(cache.layers):
        return
    if not isinstance(cache, Cache) or not isinstance(cache, DynamicCache):
        raise ModelError(
            f"a {type(cache).__name__} holds as many entries in every layer, or in a form that cannot be cut; leave "
            "cache_implementation unset, or pass a transformers DynamicCache"
        )
    for i, layer in enumerate(cache.layers):
        if holds_keys(layer) and not isinstance(layer, Cuttable) and type(layer).__name__ not in KNOWN:
            raise ModelError(
                f"layer {i} of the cache is a {type(layer).__name__}, of which it is not known where it keeps its "
                "entries; pass a plain DynamicCache, or none"
            )
    setattr(cache, _CHECKED, len(cache.layers))


def kept_of(cache: Any, layer: int) -> Kept | None:
    """What was cut from a layer of the cache, if anything."""
    if cache is None or layer >= len(cache.layers):
        return None
    return getattr(cache.layers[layer], "kept", None)


def first_cut(cache: Any) -> Kept | None:
    """What was cut of the first layer that anything was cut of."""
    for layer in () if cache is None else cache.layers:
        kept: Kept | None = getattr(layer, "kept", None)
        if kept is not None:
            return kept
    return None


def cuts_of(cache: Any) -> list[Kept]:
    """What was cut of a cache, each once, in the order of its layers."""
    layers = () if cache is None else cache.layers
    found = {id(kept): kept for layer in layers if (kept := getattr(layer, "kept", None)) is not None}
    return list(found.values())


def length(cache: Any) -> int:
    """Logical length of the cache."""
    return 0 if cache is None else int(cache.get_seq_length())
