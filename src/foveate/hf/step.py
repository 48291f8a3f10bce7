"""One forward pass of the language model over a prompt that is being cut, or over a cache that was.

A *segment* is the set of tokens that a run of layers sees. The first is what the language model itself is given; each
cut at a layer starts another. Everything indexed by position is cut here, together: states, position ids, rotary
tables, masks, DeepStack planes, and what the cache of each layer stands for.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from foveate.hf.cache import NAMES, CutLayer, Kept, extend, given, kept_of, length
from foveate.hf.clock import Clock, Seconds
from foveate.hf.families.base import Family
from foveate.hf.prompt import last_real
from foveate.hf.segment import Lengths, Segment, gather

_CACHE = next(name for name in NAMES if name in inspect.signature(create_causal_mask).parameters)
"""What `create_causal_mask` of this transformers calls the cache."""


class Step:
    """See the module's docstring. Made in the language model's pre-hook, dropped in its post-hook."""

    def __init__(self, family: Family, language_model: Any, kwargs: dict[str, Any], contiguous: bool) -> None:
        self.family, self.lm, self.contiguous = family, language_model, contiguous
        self.cache: Any = given(kwargs)
        self.past = length(self.cache)
        self.embeds = kwargs["inputs_embeds"]
        self.b, self.l = self.embeds.shape[:2]
        device = self.embeds.device
        mask = kwargs.get("attention_mask")
        self.masked = mask is not None
        self.real_BT = (
            mask.to(device).bool()
            if mask is not None
            else torch.ones(self.b, self.past + self.l, dtype=torch.bool, device=device)
        )
        if self.real_BT.shape[1] < self.past + self.l:
            # A mask over the new tokens alone: what the cache holds is real.
            gap = self.past + self.l - self.real_BT.shape[1]
            self.real_BT = torch.nn.functional.pad(self.real_BT, (gap, 0), value=True)
        self.position_ids: Any = kwargs.get("position_ids")
        if self.position_ids is None:
            self.position_ids = (torch.arange(self.l, device=device) + self.past).unsqueeze(0)
        self.by_text = False
        """Whether some selector read the prompt's text."""
        self.segment = self.base = Segment(None)
        self.of_layer: list[Segment] = []
        self.seconds: list[Seconds] = []
        self.mixes: list[tuple[int, Tensor, Tensor, Tensor]] = []
        """(row, places before, places after, weights) of tokens that were merged, in order."""

    # -- geometry

    @property
    def real_BL(self) -> Tensor:
        """Padding mask of this pass's own tokens."""
        return self.real_BT[:, self.past :]

    def mask2d(self, kept: Kept | None, segment: Segment) -> Tensor:
        """Padding mask for a layer: dropped places first (never looked at), its entries, this pass's tokens."""
        past, own = self.real_BT[:, : self.past], self.real_BL
        if segment.index_BM is not None:
            own = gather(own, segment.index_BM) & (segment.index_BM >= 0)
        if kept is not None:
            past = torch.cat((past.new_zeros(self.b, kept.dropped), kept.squeeze(past)), 1)
        return torch.cat((past, own), 1)

    def positions(self, kept: Kept | None, segment: Segment) -> Tensor:
        """Position ids for a layer's tokens, [B, M] or [axes, B, M]."""
        ids = self.position_ids
        shift = None if kept is None else kept.shift_B
        index = segment.index_BM
        if shift is not None:
            ids = ids - shift.to(ids.device).unsqueeze(-1)
        if index is None:
            return ids
        axis = ids.ndim - 1
        if not (self.contiguous and segment.new):
            return gather(ids, index, axis)
        # Renumber without gaps, on from where the first real token stands; a row that lost nothing keeps its places.
        real = gather(self.real_BL, index) & (index >= 0)
        whole = (real.sum(1) == self.real_BL.sum(1)).unsqueeze(1).to(ids.device)
        rank = (real.long().cumsum(1) - 1).clamp(min=0).to(ids.device)
        first = self.real_BL.long().argmax(1, keepdim=True)
        start = gather(ids, first, axis)
        return torch.where(whole, gather(ids, index, axis), start + rank)

    def shift(self, kept: Kept | None, segment: Segment) -> Tensor | None:
        """How far positions after this pass move down, for the cache."""
        if not self.contiguous or segment.index_BM is None:
            return None if kept is None else kept.shift_B
        ids = self.position_ids
        new = self.positions(kept, segment)
        last = last_real(self.real_BL).unsqueeze(1)
        before = gather(ids, last, ids.ndim - 1)[..., 0]
        after = new[..., -1]
        moved = before - after
        # With three axes, later text continues from the largest of them.
        return moved.reshape(-1, moved.shape[-1])[-1]

    def slots(self) -> Tensor:
        """Where each place of the input is in the current segment: [B, L]."""
        place = torch.arange(self.l, device=self.embeds.device).expand(self.b, -1)
        index = self.segment.index_BM
        if index is None:
            return place
        slot = torch.arange(index.shape[1], device=index.device).expand_as(index)
        # Filler goes to an extra last column that is cut off again.
        where = torch.where(index < 0, self.l, index)
        return torch.zeros(self.b, self.l + 1, dtype=torch.long, device=index.device).scatter_(1, where, slot)[:, :-1]

    # -- the language model's own arguments

    def arguments(self) -> dict[str, Any]:
        """What the language model gets instead, besides its embeddings: positions and mask of the base segment."""
        kept = kept_of(self.cache, 0)
        out: dict[str, Any] = {"position_ids": self.positions(kept, self.base)}
        cut = self.base.index_BM is not None
        if cut or self.masked or (kept is not None and kept.filled):
            out["attention_mask"] = self.mask2d(kept, self.base)
        return out

    def deepstack(self, hidden: Tensor, visual_BL: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
        """DeepStack's mask and plane for the current segment, from those of the whole input.

        Args:
            hidden: [B, M, D], where the plane is to be added.
            visual_BL: visual positions of the input.
            plane: one row for each of them, prompt by prompt.
        """
        index = self.segment.index_BM
        if index is None:
            return visual_BL, plane
        index, visual_BL = index.to(hidden.device), visual_BL.to(hidden.device)
        full = hidden.new_zeros(*visual_BL.shape, hidden.shape[-1])
        full[visual_BL] = plane.to(hidden)
        # A token that stands for several carries their planes in the same proportions.
        for row, before, stays, mix in self.mixes:
            full[row, stays.to(full.device)] = mix.to(full) @ full[row, before.to(full.device)]
        kept = gather(visual_BL, index) & (index >= 0)
        return kept, gather(full, index)[kept]

    # -- a decoder layer's arguments

    def enter(self, layer: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Put into a layer's keyword arguments what its segment and its cache need."""
        self.of_layer.append(self.segment)
        kept, first = kept_of(self.cache, layer), kept_of(self.cache, 0)
        # Positions with gaps look like packed sequences to FlashAttention, which reads them here; the tables hold them.
        if "position_ids" in kwargs:
            kwargs["position_ids"] = None
        if self.segment is self.base and kept is first:
            return
        kwargs["position_embeddings"] = self.table(kept, hidden)
        bare = not self.masked and not (kept is not None and kept.filled)
        if bare and hidden.shape[1] == 1 and kwargs.get("attention_mask") is None:
            # One query that sees everything needs no mask, whatever the length of this layer's cache.
            return
        kwargs["attention_mask"] = self.mask(kept, hidden)

    def mask(self, kept: Kept | None, hidden: Tensor) -> Any:
        """The attention mask of the current segment over a layer's cache, as this model's kernel wants it."""
        key = id(kept)
        if key not in self.segment.masks:
            self.segment.masks[key] = create_causal_mask(
                config=self.lm.config,
                inputs_embeds=hidden,
                attention_mask=self.mask2d(kept, self.segment),
                position_ids=None,
                **{_CACHE: Lengths(self.past, kept)},
            )
        return self.segment.masks[key]

    def table(self, kept: Kept | None, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary tables of the current segment."""
        shift = None if kept is None else kept.shift_B
        key = id(shift), self.segment.new
        if key not in self.segment.tables:
            ids = self.positions(kept, self.segment)
            if self.family.mrope:
                ids = ids.expand(3, -1, -1) if ids.ndim == 2 else ids[-3:]
            self.segment.tables[key] = self.lm.rotary_emb(hidden, position_ids=ids.to(hidden.device))
        return self.segment.tables[key]

    # -- afterwards

    def remember(self, cache: Any) -> None:
        """Tell each layer of the cache what its entries stand for."""
        told: dict[tuple[int, int], Kept] = {}
        for i, segment in enumerate(self.of_layer):
            layer = cache.layers[i]
            old = getattr(layer, "kept", None)
            if segment.index_BM is None:
                continue
            key = id(old), id(segment)
            if key not in told:
                told[key] = extend(old, self.past, segment.index_BM, self.l, self.shift(old, segment), self.by_text)
            if isinstance(layer, CutLayer):
                layer.kept = told[key]
            else:
                cache.layers[i] = CutLayer(layer, told[key])

    def restore(self, output: Any) -> Any:
        """Bring the language model's output back to the length of its input; dropped places are 0."""
        if isinstance(output, tuple):
            return (self.scatter(output[0], self.segment), *output[1:])
        output["last_hidden_state"] = self.scatter(output["last_hidden_state"], self.segment)
        if output.get("hidden_states") is not None:
            # The first entry goes into layer 0; each later one comes out of a layer.
            segments = [self.of_layer[0], *self.of_layer]
            states = zip(output["hidden_states"], segments, strict=True)
            output["hidden_states"] = tuple(self.scatter(h, s) for h, s in states)
        if output.get("attentions") is not None:
            output["attentions"] = tuple(self.scatter_map(a, i) for i, a in enumerate(output["attentions"]))
        return output

    def scatter(self, x: Tensor, segment: Segment, dim: int = 1) -> Tensor:
        """Bring a segment's rows back to the input's places; dropped places are 0."""
        index = segment.index_BM
        if index is None:
            return x
        index = index.to(x.device)
        shape = list(x.shape)
        shape[dim] = self.l + 1
        view = [1] * x.ndim
        view[0], view[dim] = index.shape
        where = torch.where(index < 0, self.l, index).view(view).expand_as(x)
        return x.new_zeros(shape).scatter(dim, where, x).narrow(dim, 0, self.l)

    def scatter_map(self, x: Tensor, layer: int) -> Tensor:
        """Bring a layer's attention map [B, H, M, P + M] back to the input's queries and the logical keys."""
        segment = self.of_layer[layer]
        if (kept := kept_of(self.cache, layer)) is not None or segment.index_BM is not None:
            index = segment.index_BM
            if index is None:
                index = torch.arange(self.l, device=x.device).expand(self.b, -1)
            # `remember` has run: where it cut, `kept` already tells about this pass too.
            keys = kept if kept is not None and kept.covers > self.past else extend(kept, self.past, index, self.l)
            where = torch.where(keys.index_BP < 0, keys.covers, keys.index_BP).to(x.device)[:, None, None].expand_as(x)
            x = x.new_zeros(*x.shape[:3], keys.covers + 1).scatter(3, where, x)[..., :-1]
        return self.scatter(x, segment, 2)

    def clock(self) -> Clock:
        """Times what happens inside a `with`, on the device's own clock where there is one."""
        return Clock(self.seconds, self.embeds.device)
