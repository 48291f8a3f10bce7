"""A KV cache that is shorter than the prompt it stands for, and still answers with the prompt's length.

What was cut belongs to the cache, layer by layer, not to the attachment: so threads, beams and later turns find it.
A cut layer tells transformers its logical length and nothing else, so that masks, tables and positions are made as if
nothing had gone; what a layer lacks is then picked out of them (`layers.py`).
"""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from foveate.errors import ModelError

NAMES = ("cache", "past_key_values")
"""What transformers calls a cache, in arguments and in outputs: since 5.24, and before."""


def given(kwargs: Mapping[str, Any]) -> Any:
    """The cache among a call's arguments, or None."""
    return next((kwargs[name] for name in NAMES if kwargs.get(name) is not None), None)


def left(output: Any) -> Any:
    """The cache in a model's output, or None."""
    return next((output[name] for name in NAMES if name in output), None)


class Told:
    """What holds for all layers of a cache that was cut; shared by them.

    Attributes:
        uniform: every layer lost the same.
        free: no filler, no padding, no shift: whoever goes on from here needs to know nothing but the length.
        open: both, so that a model alone goes on rightly.
    """

    def __init__(self, uniform: bool = False, free: bool = False) -> None:
        self.uniform, self.free, self.open = uniform, free, uniform and free
        self._leader: Any = None
        self._whole = False

    def __getstate__(self) -> dict[str, Any]:
        """Without the pass that is running."""
        return self.__dict__ | {"_leader": None}

    def lead(self, by: object, whole: bool) -> None:
        """Say that a pass knows of the cut, for as long as `by` lives; `whole`: it wants masks of all positions."""
        self._leader, self._whole = weakref.ref(by), whole

    @property
    def led(self) -> bool:
        """Whether the pass that is running knows of the cut."""
        return self._leader is not None and self._leader() is not None

    @property
    def picked(self) -> bool:
        """Whether masks are made of all positions, and each layer's columns picked out of them."""
        return not self.uniform or (self.led and self._whole)


class Kept:
    """Which logical positions the first cached entries of a layer stand for. Shared by layers that saw the same tokens.

    Attributes:
        index_BP: logical position of each entry, -1 for filler that evens out the rows of a batch.
        covers: how many logical positions are told about; everything later stands for itself.
        shift_B: how far positions of later tokens move down ("contiguous"), or None.
        by_text: the choice was made by the prompt's text, so the prompt cannot be shortened afterwards.
        guesses: how many of the last positions had no say in it, and can be taken back.
        filled: there may be filler.
        told: what holds for the whole cache.
        mask_BT: where layers are uniform and rows padded, the padding mask of what is held.
    """

    def __init__(
        self,
        index_BP: Tensor,
        covers: int,
        shift_B: Tensor | None,
        by_text: bool,
        guesses: int = 0,
        filled: bool | None = None,
    ) -> None:
        self.index_BP, self.covers, self.shift_B = index_BP, covers, shift_B
        self.by_text, self.guesses = by_text, guesses
        self.filled = bool((index_BP < 0).any()) if filled is None else filled
        self.told = Told()
        self.mask_BT: Tensor | None = None
        self._taken: tuple[Tensor, Kept] | None = None
        self._cropped: tuple[int, Kept] | None = None

    @property
    def dropped(self) -> int:
        """Logical positions without an entry of their own."""
        return self.covers - self.index_BP.shape[1]

    def _like(self, other: "Kept", mask_BT: Tensor | None) -> "Kept":
        self.told, self.mask_BT = other.told, mask_BT
        return self

    def squeeze(self, real_BT: Tensor) -> Tensor:
        """A padding mask over logical positions -> over entries, then whatever comes later."""
        index = self.index_BP.to(real_BT.device)
        return torch.cat((real_BT.gather(1, index.clamp(min=0)) & (index >= 0), real_BT[:, self.covers :]), 1)

    def take(self, rows: Tensor) -> "Kept":
        """The same for other batch rows. Layers share one answer, so that they go on sharing."""
        if self._taken is None or self._taken[0] is not rows:
            i = rows.to(self.index_BP.device)
            shift = None if self.shift_B is None else self.shift_B[i]
            kept = Kept(self.index_BP[i], self.covers, shift, self.by_text, self.guesses, self.filled)
            self._taken = (rows, kept._like(self, None if self.mask_BT is None else self.mask_BT[i]))
        return self._taken[1]

    def crop(self, n: int) -> "Kept":
        """The same without the last n positions, as assisted decoding takes back what it guessed.

        Raises:
            ModelError: some of them were dropped, or the choice was made by them.
        """
        if self._cropped is None or self._cropped[0] != n:
            want = torch.arange(self.covers - n, self.covers, device=self.index_BP.device)
            told = self.by_text and n > self.guesses
            if told or n > self.index_BP.shape[1] or bool((self.index_BP[:, -n:] != want).any()):
                raise ModelError(
                    f"cropping {n} tokens would reach into a pruned prompt; crop generated tokens only, or start a new "
                    "cache"
                )
            left = max(0, self.guesses - n)
            kept = Kept(self.index_BP[:, :-n], self.covers - n, self.shift_B, self.by_text, left, self.filled)
            self._cropped = (n, kept._like(self, None if self.mask_BT is None else self.mask_BT[:, :-n]))
        return self._cropped[1]


class Cuttable:
    """What a cut adds to a cache layer: its entries are a subset of the logical positions they stand for.

    To masks it says that it holds every logical position; each layer's own columns are picked out of those masks.
    Where every layer lost the same, it looks like a window whose first `dropped` positions have left.
    """

    kept: Kept | None
    told: Told | None = None
    keys: Any
    is_sliding = False

    @property
    def dropped(self) -> int:
        """Logical length minus physical length."""
        return self.kept.dropped if self.kept else 0

    @property
    def held(self) -> int:
        """Physical length."""
        return 0 if self.keys is None or self.keys.numel() == 0 else int(self.keys.shape[-2])

    def get_seq_length(self, *args: Any) -> int:
        """Logical length: what the prompt and everything after it would hold."""
        return self.held + self.dropped

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length with the query, and where the first entry stands."""
        if self.kept is None or self.kept.told.picked:
            return self.get_seq_length() + query_length, 0
        # One token sees all there is, wherever that stands; whoever leads has squeezed the padding mask for it.
        return self.held + query_length, 0 if query_length == 1 and self.kept.told.led else self.dropped

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Append; refused where nobody is there who knows what the entries stand for.

        Raises:
            ModelError: the plan that made the cut is attached no more, and the model alone would go wrong.
        """
        told = self.told
        if told is not None and not told.open and not told.led:
            raise ModelError(
                "this cache was pruned by a plan that is attached no more, and the model alone cannot tell what its "
                "entries stand for; attach the plan again to go on, or start with a new cache"
            )
        return super().update(*args, **kwargs)  # type: ignore[misc]

    def reset(self) -> None:
        """Forget the cut with the entries."""
        super().reset()  # type: ignore[misc]
        self.kept = self.told = None

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens; into a cut only where nothing of it was dropped.

        A positive number is the length to come down to, as older transformers take it.
        """
        n = -tokens_to_remove if tokens_to_remove <= 0 else max(0, self.get_seq_length() - tokens_to_remove)
        if self.kept and n and (into := self.kept.index_BP.shape[1] + n - self.held) > 0:
            self.kept = self.kept.crop(into)
        super().crop(-n)  # type: ignore[misc]

    def reorder_cache(self, beam_idx: Any) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Follow the rows that stay."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Follow the rows that are repeated."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        if self.kept:
            rows = torch.arange(self.kept.index_BP.shape[0]).repeat_interleave(repeats)
            self._rows(rows)

    def __reduce__(self) -> Any:
        """Copied and pickled as what it was made of: its class has no name of its own."""
        plain: Any = object.__new__(type(self).__mro__[2])
        plain.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("kept", "told")})
        return cut_layer, (plain, self.kept, self.told)

    def _rows(self, rows: Tensor) -> None:
        if self.kept:
            self.kept = self.kept.take(rows)


_WHOLE = {
    "DynamicSlidingWindowLayer": "DynamicLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer": "LinearAttentionAndFullAttentionLayer",
}
"""Sliding cache layer -> the class that holds everything: a window counts logical positions, which masks know."""
KNOWN = (*_WHOLE, *_WHOLE.values(), "DynamicIndexedLayer")
"""Cache layers that hold keys in one growing tensor, or its end."""
_CLASSES: dict[type, type] = {}


def cut_layer(layer: Any, kept: Kept | None, told: Told | None = None) -> Any:
    """A cache layer with a cut: the same entries, in a class that knows what they stand for."""
    was = type(layer).__mro__[2] if isinstance(layer, Cuttable) else type(layer)
    plain: type = getattr(cache_utils, _WHOLE.get(was.__name__, ""), was)
    if plain not in _CLASSES:
        _CLASSES[plain] = type(f"Cut{plain.__name__}", (Cuttable, plain), {})
    new: Any = object.__new__(_CLASSES[plain])
    new.__dict__.update(layer.__dict__)
    new.kept, new.told = kept, kept.told if told is None and kept is not None else told
    return new


def holds_keys(layer: Any) -> bool:
    """Whether a cache layer holds keys, as linear attention and mere bookkeeping do not."""
    return isinstance(layer, DynamicLayer)


def may_be_cut(layer: Any) -> bool:
    """Whether a cache layer can tell what its layer sees: it holds keys, or its layer sees another's."""
    return holds_keys(layer) or type(layer).__name__.endswith("DummyLayer")


def is_recurrent(layer: Any) -> bool:
    """Whether a cache layer holds a state that goes through the tokens one by one, and no keys."""
    return isinstance(layer, getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())) and not holds_keys(layer)


def widen(cache: Any) -> None:
    """Let sliding cache layers hold everything from here on: a window counts what was dropped too."""
    for i, layer in enumerate(cache.layers):
        if type(layer).__name__ in _WHOLE:
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


def cuts_of(cache: Any) -> list[Kept]:
    """What was cut of a cache, each once, in the order of its layers."""
    layers = () if cache is None else cache.layers
    first = getattr(layers[0], "kept", None) if layers else None
    if first is not None and first.told.uniform:
        return [first]
    found = {id(kept): kept for layer in layers if (kept := getattr(layer, "kept", None)) is not None}
    return list(found.values())


def length(cache: Any) -> int:
    """Logical length of the cache."""
    return 0 if cache is None else int(cache.get_seq_length())


def extend(
    old: Kept | None,
    past: int,
    index_BM: Tensor,
    new: int,
    shift_B: Tensor | None = None,
    by_text: bool = False,
    guesses: int = 0,
    filled: bool | None = None,
) -> Kept:
    """What a layer holds after a cut: what it held, then the kept ones of `new` more positions.

    Args:
        old: what was cut before.
        past: logical length before.
        index_BM: kept places among the new positions, -1 for filler.
        new: how many positions the forward pass was given.
        shift_B: see `Kept`.
        by_text: see `Kept`.
        guesses: see `Kept`.
        filled: whether there is filler among the new positions; None: look.
    """
    b, device = index_BM.shape[0], index_BM.device
    before = [] if old is None else [old.index_BP.to(device)]
    told = 0 if old is None else old.covers
    before.append(torch.arange(told, past, device=device).expand(b, -1))
    index_BP = torch.cat((*before, torch.where(index_BM >= 0, index_BM + past, -1)), 1)
    if filled is not None and old is not None:
        filled |= old.filled
    return Kept(index_BP, past + new, shift_B, by_text, guesses, filled)
