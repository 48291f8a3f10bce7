"""What each decoder layer is handed: of everything the language model made for all places, what its segment needs.

Arguments are told apart by what they are, not by whose they are: maps of queries and keys, masks of padding, tables of
every key, choices of keys, and whatever else has a row for each place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.hf.cache import kept_of
from foveate.hf.cut_layers import is_recurrent
from foveate.hf.kept import Kept, extend
from foveate.hf.picking import RECURRENT, flat_masks, pick, pick_mask, renumber
from foveate.hf.segment import Segment, along, gather, inverse
from foveate.hf.sizing import biased, nearness
from foveate.hf.step import Step


class Layers:
    """The layers of one pass, in the order in which they run."""

    def __init__(self, step: Step) -> None:
        self.step, self.flat = step, flat_masks(step.lm.config)
        self.before: tuple[Segment, Tensor | None] = step.segment, None
        """Segment and keys of the layer that ran last."""
        self.shared: dict[Any, Tensor | None] = {}
        """Where layers share keys: the positions of those that the last layer of a kind left for others."""
        self.done: dict[Any, tuple[Any, Any]] = {}
        """What was picked already, with what it was picked from, so that layers that see the same tokens share it."""

    def peek(self, layer: int, hidden: Tensor, named: dict[str, Any], module: Any) -> dict[str, Any]:
        """What a layer's arguments would be if it ran now, on what is still there."""
        step, told = self.step, dict(named)
        saved = list(step.of_layer), dict(step.of_cache), self.before, dict(self.shared)
        self.enter(layer, hidden, told, module)
        step.of_layer, step.of_cache, self.before, self.shared = saved
        return told | {"hidden_states": hidden}

    def enter(self, layer: int, hidden: Tensor, named: dict[str, Any], module: Any) -> None:
        """Cut a layer's arguments to what its segment and its cache hold.

        Args:
            layer: its place in the cache.
            hidden: its states, cut already.
            named: its other arguments by name; changed in place.
            module: the layer itself.
        """
        step = self.step
        index = step.segment.index_BM
        step.of_layer.append(step.segment)
        step.of_cache[layer] = step.segment
        # Positions with gaps look like packed sequences to FlashAttention, which reads them here; the tables hold them.
        if self.flat and "position_ids" in named:
            named["position_ids"] = None
        kept = kept_of(step.cache, layer)
        held = self.held(kept)
        sees = None if held is None else held.index_BP
        attn = getattr(module, "self_attn", None)
        kind = getattr(attn, "layer_type", None) or getattr(attn, "use_rope", None)
        lent = getattr(attn, "is_kv_shared_layer", False)
        keys = self.shared.get(kind) if lent else sees
        if getattr(attn, "store_full_length_kv", False):
            self.shared[kind] = keys
        if keys is not None or sees is not None or index is not None:
            # Gemma 4 sends the last places alone through layers that have no keys of their own: those rows stay.
            rows = step.segment if index is not None and step.width(hidden) == index.shape[1] else None
            for name, value in named.items():
                if name != "hidden_states":
                    named[name] = self._argument(name, value, layer, rows, keys, sees if lent else None, kept, hidden)
            self._renumbered(named, kept, rows is not None, hidden)
        if held is not None and held.bias_BP is not None and "attention_mask" in named:
            named["attention_mask"] = self._biased(named["attention_mask"], held.bias_BP, kept, hidden)
        self.before = step.segment, keys

    def _biased(self, mask: Any, bias_BK: Tensor, kept: Kept | None, hidden: Tensor) -> Tensor:
        step = self.step

        def make() -> Tensor:
            far = step.distance and not step.past
            near = nearness(step.positions(kept, step.segment), step.lm.rotary_emb, step.lm.config) if far else None
            if near is not None:
                # Not in prompts where nothing was merged: beside others each is as by itself.
                near = near * (bias_BK != 0).any(1)[:, None, None]
            return biased(mask, bias_BK, step.width(hidden), hidden.dtype, self.flat, near)

        return self._once((id(bias_BK),), mask, make)  # type: ignore[no-any-return]

    def held(self, kept: Kept | None) -> Kept | None:
        """What a layer of the current segment sees: the cache's entries, then this pass's. None: all there is."""
        step = self.step
        index = step.segment.index_BM
        if kept is None and index is None:
            return None

        def make() -> Kept:
            own = torch.arange(step.l, device=step.embeds.device).expand(step.b, -1) if index is None else index
            return extend(kept, step.past, own, step.l, filled=False, bias_BM=step.segment.bias_BM)

        return self._once(("keys", id(step.segment)), kept, make)

    # -- one argument

    def _argument(
        self, name: str, value: Any, layer: int, rows: Segment | None, keys: Tensor | None, alive: Tensor | None,
        kept: Kept | None, hidden: Tensor,
    ) -> Any:  # fmt: skip
        step = self.step
        if name.endswith("mask") and (value is None or isinstance(value, Tensor)):
            if self._is_padding(name, value, layer):
                return self._padding(value, rows)
            if name == "attention_mask":
                queries, index = step.width(hidden), None if rows is None else rows.index_BM
                # Of keys that are another layer's nobody knows here.
                held = step.segment.filled is not False or (kept is not None and kept.filled)
                filled = alive is not None or (keys is not None and held)
                key = id(rows), id(keys), id(alive), queries
                return self._once(key, value, lambda: pick_mask(value, index, self._every(keys), alive, step.total,
                                                                queries, step.l, self.flat, filled))  # fmt: skip
        if value is None:
            return None
        if name == "relative_distance":
            whole, every = value[None, None].expand(step.b, -1, -1, -1), self._every(keys)
            index = None if rows is None else rows.index_BM
            return self._once((id(rows), id(keys)), value, lambda: pick(whole, index, every, step.total))
        if name == "prev_topk_indices":
            return self._chosen(value, keys)
        if name == "position_embeddings" and isinstance(value, tuple) and value[0].shape[-2] == step.total > step.l:
            # Of all keys, as an indexer wants them.
            return tuple(along(v, self._every(keys).clamp(min=0), step.b, step.total) for v in value)
        return value if rows is None else self._rows(value, rows)

    def _is_padding(self, name: str, mask: Tensor | None, layer: int) -> bool:
        """Whether a mask is over tokens, for a layer that goes through them one by one."""
        step = self.step
        if name == "conv_mask":
            return True
        if name != "attention_mask" or (mask is not None and mask.ndim != 2):
            return False
        if mask is not None and not self.flat and mask.shape[1] == step.l != step.total:
            return True
        if step.cache is not None and layer < len(step.cache.layers):
            return is_recurrent(step.cache.layers[layer])
        types = getattr(step.lm.config, "layer_types", None) or []
        return layer < len(types) and types[layer] in RECURRENT

    def _padding(self, mask: Tensor | None, rows: Segment | None) -> Tensor | None:
        if rows is None or rows.index_BM is None:
            return mask
        if mask is None:
            return rows.index_BM >= 0 if rows.filled is not False else None
        picked = gather(mask, rows.safe_BM)
        return picked.masked_fill((rows.index_BM < 0).to(mask.device), 0) if rows.filled is not False else picked

    def _chosen(self, chosen_BMT: Tensor, keys: Tensor | None) -> Tensor:
        """Keys that an earlier layer's indexer chose, as this layer numbers them."""
        step, (segment, old) = self.step, self.before
        if old is keys and segment is step.segment:
            return chosen_BMT
        if segment is not step.segment:
            index = segment.index_BM
            # Whatever is left was there before.
            taken = step.segment.safe_BM if index is None else gather(inverse(index, step.l), step.segment.safe_BM)
            chosen_BMT = gather(chosen_BMT, taken)
        return renumber(chosen_BMT, self._every(old), self._every(keys), step.total)

    def _rows(self, value: Any, rows: Segment) -> Any:
        if isinstance(value, Tensor):
            return self._once((id(rows),), value, lambda: along(value, rows.safe_BM, self.step.b, self.step.l))
        if isinstance(value, tuple | list) and value and all(isinstance(v, Tensor) for v in value):
            return type(value)(self._rows(v, rows) for v in value)
        return value

    def _renumbered(self, named: dict[str, Any], kept: Kept | None, picked: bool, hidden: Tensor) -> None:
        """With contiguous positions, tables are not picked but made: they are of other positions.

        Also where it was another plan that cut the cache so.
        """
        step = self.step
        if named.get("position_embeddings") is not None:
            moved = kept is not None and kept.shift_B is not None
            if (step.contiguous and picked) or (moved and kept is not kept_of(step.cache, step.first_with_keys())):
                named["position_embeddings"] = step.table(kept, hidden)

    # -- and what they share

    def _every(self, keys: Tensor | None) -> Tensor:
        """Position of each key, where None stands for all."""
        step = self.step
        return torch.arange(step.total, device=step.embeds.device).expand(step.b, -1) if keys is None else keys

    def _once(self, key: tuple[Any, ...], source: Any, make: Callable[[], Any]) -> Any:
        """What `make` made of this source before. Sources are held, so that no other takes their place in memory."""
        key = (*key, id(source))
        if key not in self.done:
            self.done[key] = (source, make())
        return self.done[key][1]
