"""Cache layers that were cut: fewer entries than positions, and the prompt's length as an answer."""

from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import DynamicLayer

from foveate.errors import ModelError
from foveate.hf.kept import Kept, Told


class Cuttable:
    """What a cut adds to a cache layer: its entries are a subset of the logical positions they stand for.

    To masks it says that it holds every logical position; each layer's own columns are picked out of those masks.
    Where every layer lost the same, it looks like a window whose first `dropped` positions have left.
    """

    kept: Kept | None
    told: Told | None = None
    keys: Any
    is_sliding = False

    def _held(self) -> int:
        """Physical length."""
        return 0 if self.keys is None or self.keys.numel() == 0 else int(self.keys.shape[-2])

    def get_seq_length(self, *args: Any) -> int:
        """Logical length: what the prompt and everything after it would hold."""
        return self._held() + (self.kept.dropped if self.kept else 0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length with the query, and where the first entry stands."""
        kept = self.kept
        if kept is None or kept.told.picked:
            return self.get_seq_length() + query_length, 0
        # One token sees all there is, wherever that stands; whoever leads has squeezed the padding mask for it.
        return self._held() + query_length, 0 if query_length == 1 and kept.told.led else kept.dropped

    def reset(self) -> None:
        """Forget the cut with the entries."""
        super().reset()  # type: ignore[misc]
        self.kept = self.told = None

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens; into a cut only where nothing of it was dropped.

        A positive number is the length to come down to, as older transformers take it.
        """
        n = -tokens_to_remove if tokens_to_remove <= 0 else max(0, self.get_seq_length() - tokens_to_remove)
        if self.kept and n and (into := self.kept.index_BP.shape[1] + n - self._held()) > 0:
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
        plain: Any = object.__new__(_plain(self))
        plain.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("kept", "told")})
        return cut_layer, (plain, self.kept, self.told, isinstance(self, Guarded))

    def _rows(self, rows: Tensor) -> None:
        if self.kept:
            self.kept = self.kept.take(rows)


class Guarded(Cuttable):
    """The first layer of a cache, which speaks for all: every token passes every layer, and asking takes time."""

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


WHOLE = {
    "DynamicSlidingWindowLayer": "DynamicLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer": "LinearAttentionAndFullAttentionLayer",
}
"""Sliding cache layer -> the class that holds everything: a window counts logical positions, which masks know."""
KNOWN = (*WHOLE, *WHOLE.values(), "DynamicIndexedLayer")
"""Cache layers that hold keys in one growing tensor, or its end."""
_CLASSES: dict[tuple[type, type], type] = {}


def _plain(layer: Any) -> type:
    """The class that transformers gave a layer."""
    return next(c for c in type(layer).__mro__ if not issubclass(c, Cuttable))


def cut_layer(layer: Any, kept: Kept | None, told: Told | None = None, guarded: bool = False) -> Any:
    """A cache layer with a cut: the same entries, in a class that knows what they stand for."""
    was = _plain(layer)
    plain: type = getattr(cache_utils, WHOLE.get(was.__name__, ""), was)
    kind = Guarded if guarded else Cuttable
    if (kind, plain) not in _CLASSES:
        _CLASSES[kind, plain] = type(f"Cut{plain.__name__}", (kind, plain), {})
    new: Any = object.__new__(_CLASSES[kind, plain])
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
