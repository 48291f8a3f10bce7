"""One forward pass of the language model over a prompt that is being cut, or over a cache that was.

A *segment* is the set of tokens that a run of layers sees. The first is what the language model itself is given; each
cut at a layer starts another. Everything indexed by position is cut here, together: states, position ids, rotary
tables, masks, DeepStack planes, and what the cache of each layer stands for.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from foveate.cache import CutLayer, Kept, extend, kept_of, length
from foveate.families.base import Family
from foveate.plan import Cut
from foveate.prompt import Image, Prompt, squeeze_index
from foveate.selection import Attention
from foveate.taps import dynamic_raters, text_attention
from foveate.views import choose, choose_in_prompt


@dataclass
class Segment:
    """Tokens that a run of layers sees: places in this pass's input, [B, M], -1 for filler; None for all of them."""

    index_BM: Tensor | None
    new: bool = False
    """A cut of this pass made it, so it must go into the cache."""
    masks: dict[int, Any] = field(default_factory=dict)
    tables: dict[Any, Any] = field(default_factory=dict)


class _Lengths:
    """What `create_causal_mask` asks a cache, for one layer."""

    is_compileable = False

    def __init__(self, past: int, kept: Kept | None) -> None:
        self.past, self.dropped = past, kept.dropped if kept else 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.past

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.past

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.past - self.dropped + query_length, self.dropped


class Step:
    """See the module's docstring. Made in the language model's pre-hook, dropped in its post-hook."""

    def __init__(self, family: Family, language_model: Any, kwargs: dict[str, Any], contiguous: bool) -> None:
        self.family, self.lm, self.contiguous = family, language_model, contiguous
        self.cache: Any = kwargs.get("past_key_values")
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
        self.prompt: Prompt | None = None
        self.by_text = False
        """Whether some selector read the prompt's text."""
        self.segment = self.base = Segment(None)
        self.of_layer: list[Segment] = []
        self.seconds: list[Any] = []
        self.previous: tuple[Tensor, Any] | None = None
        self.mixes: list[tuple[int, Tensor, Tensor, Tensor]] = []
        """(row, places before, places after, weights) of tokens that were merged, in order."""

    # -- geometry

    @property
    def real_BL(self) -> Tensor:
        """Padding mask of this pass's own tokens."""
        return self.real_BT[:, self.past :]

    def gather(self, x: Tensor, index_BM: Tensor, dim: int = 1) -> Tensor:
        """Pick places along `dim`; filler repeats place 0 and is masked. Batch is the dimension before `dim`."""
        index = index_BM.clamp(min=0).to(x.device)
        if x.shape[dim - 1] == 1 and index.shape[0] > 1:
            x = x.expand(*x.shape[: dim - 1], index.shape[0], *x.shape[dim:])
        shape = [1] * x.ndim
        shape[dim - 1], shape[dim] = index.shape
        return x.gather(dim, index.view(shape).expand(*x.shape[:dim], index.shape[1], *x.shape[dim + 1 :]))

    def mask2d(self, kept: Kept | None, segment: Segment) -> Tensor:
        """Padding mask for a layer: dropped places first (never looked at), its entries, this pass's tokens."""
        past, own = self.real_BT[:, : self.past], self.real_BL
        if segment.index_BM is not None:
            own = self.gather(own, segment.index_BM) & (segment.index_BM >= 0)
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
            return self.gather(ids, index, axis)
        # Renumber without gaps, on from where the first real token stands.
        real = self.gather(self.real_BL, index) & (index >= 0)
        rank = (real.long().cumsum(1) - 1).clamp(min=0).to(ids.device)
        first = self.real_BL.long().argmax(1, keepdim=True)
        start = self.gather(ids, first, axis)
        return start + rank

    def shift(self, kept: Kept | None, segment: Segment) -> Tensor | None:
        """How far positions after this pass move down, for the cache."""
        if not self.contiguous or segment.index_BM is None:
            return None if kept is None else kept.shift_B
        ids = self.position_ids
        new = self.positions(kept, segment)
        last = self.real_BL.shape[1] - 1 - self.real_BL.flip(1).long().argmax(1, keepdim=True)
        before = self.gather(ids, last, ids.ndim - 1)[..., 0]
        after = new[..., -1]
        moved = before - after
        # With three axes, later text continues from the largest of them.
        return moved.reshape(-1, moved.shape[-1])[-1]

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
        kept = self.gather(visual_BL, index) & (index >= 0)
        return kept, self.gather(full, index)[kept]

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
                past_key_values=_Lengths(self.past, kept),  # type: ignore[arg-type]
                position_ids=None,
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
            self.segment.tables[key] = self.lm.rotary_emb(hidden, position_ids=ids)
        return self.segment.tables[key]

    # -- cutting

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

    def cut(self, cut: Cut, hidden: Tensor, attention: Any) -> Tensor:
        """Ask the selector and drop what it does not keep.

        Args:
            cut: where and how many.
            hidden: [B, M, D], the current segment's states.
            attention: (asked-for Attention, hidden, segment) -> [B, M], for selectors that read it.

        Returns:
            The states of the tokens that stay. Nothing to drop: `hidden` itself.
        """
        prompt = self.prompt
        assert prompt is not None
        slots = self.slots().to(hidden.device)
        reads = cut.select.reads
        self.by_text |= cut.over == "prompt" or bool(reads & {"text_BTD", "text_attn_BN"})
        select: Any = cut.select
        attn_BM: Any = attention(select.attention) if "text_attn_BN" in reads else None
        rows: dict[int, Tensor] = {}

        def text(row: int) -> Tensor:
            if row not in rows:
                rows[row] = self.embeds[row, prompt.question_BL[row]]
            return rows[row]

        def at(image: Image) -> tuple[int, Tensor]:
            return image.row, slots[image.row, image.place_N[image.alive].to(slots.device)]

        changed = False
        mixed: list[tuple[int, Tensor, Tensor]] = []
        if cut.over == "visual":
            for image, kept, mix in choose(
                cut,
                prompt.images,
                lambda i: hidden[at(i)],
                lambda i: text(i.row),
                lambda i: attn_BM[at(i)],
            ):
                changed = True
                before, places = at(image), image.place_N[image.alive]
                prompt.alive_BL[image.row, places] = False
                image.alive = image.alive[kept.to(image.alive.device)]
                stays = image.place_N[image.alive]
                prompt.alive_BL[image.row, stays] = True
                if mix is not None:
                    mixed.append((image.row, stays, mix.to(hidden.dtype) @ hidden[before]))
                    self.mixes.append((image.row, places, stays, mix))
        else:
            for row, stays in choose_in_prompt(
                cut,
                prompt,
                lambda r, p: hidden[r, slots[r, p]],
                text,
                lambda r, p: attn_BM[r, slots[r, p]],
            ):
                changed = True
                loose = prompt.visual_BL[row] | prompt.question_BL[row]
                prompt.alive_BL[row, loose] = False
                prompt.alive_BL[row, stays] = True
                for image in prompt.images:
                    if image.row == row:
                        image.alive = image.alive[prompt.alive_BL[row, image.place_N[image.alive]]]
        for image in prompt.images:
            image.cuts.append((cut.at, cut.count(self.total(cut, image)), image.alive))
        return self.shorten(hidden, slots, mixed) if changed else hidden

    def total(self, cut: Cut, image: Image) -> int:
        """What a cut's keep is relative to: the image's tokens, or all candidates of its prompt."""
        assert self.prompt is not None
        if cut.over == "visual":
            return image.tokens
        return int((self.prompt.visual_BL[image.row] | self.prompt.question_BL[image.row]).sum())

    def shorten(self, hidden: Tensor, slots: Tensor, mixed: list[tuple[int, Tensor, Tensor]]) -> Tensor:
        """Start the segment of what is alive, and give its states. Mixed tokens are written into the new tensor."""
        assert self.prompt is not None
        index = squeeze_index(self.prompt.alive_BL)
        out = self.gather(hidden, self.gather(slots, index))
        self.segment = Segment(index, new=True)
        if mixed:
            out = out.clone()
            now = self.slots().to(out.device)
            for row, stays, states in mixed:
                out[row, now[row, stays.to(now.device)]] = states
        return out

    # -- attention of the rater tokens

    def rater_attention(self, asked: Attention, number: int, layer: Any, hidden: Tensor, table: Any) -> Tensor:
        """Attention from the raters in decoder layer `number`, whose input and rotary tables these are: [B, M]."""
        assert self.prompt is not None
        kept = kept_of(self.cache, number)
        raters = self.raters(asked, hidden)
        real = self.mask2d(kept, self.segment)[:, (kept.dropped if kept else 0) :]
        past = real.shape[1] - hidden.shape[1]
        keys = self.cache.layers[number].keys[..., :past, :] if past else None
        cos, sin = (t.to(hidden.device) for t in table)
        with torch.no_grad():
            return text_attention(layer, hidden, cos, sin, raters.to(hidden.device), real.to(hidden.device), keys)

    def raters(self, asked: Attention, hidden: Tensor) -> Tensor:
        """Which tokens of the current segment are asked: [B, M]."""
        prompt, slots = self.prompt, self.slots()
        assert prompt is not None
        out = torch.zeros(self.b, hidden.shape[1], dtype=torch.bool, device=slots.device)
        rows = torch.arange(self.b, device=slots.device)
        if asked.raters == "last":
            out[rows, slots[rows, prompt.last_B]] = True
        elif asked.raters == "received":
            out.scatter_(1, torch.where(prompt.alive_BL, slots, slots[rows, prompt.last_B][:, None]), True)
        else:
            for row in range(self.b):
                text = slots[row, prompt.question_BL[row] & prompt.alive_BL[row]]
                visual = slots[row, prompt.visual_BL[row] & prompt.alive_BL[row]]
                if len(visual):
                    # Words before the image cannot see it.
                    text = text[text > visual.min()]
                if not len(text):
                    text = slots[row, prompt.last_B[row]][None]
                if asked.raters == "dynamic" and len(visual):
                    text = text[
                        dynamic_raters(hidden[row, visual.to(hidden.device)], hidden[row, text.to(hidden.device)]).to(
                            text.device
                        )
                    ]
                out[row, text] = True
        return out

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

    def clock(self) -> "Clock":
        """Times what happens inside a `with`, on the device's own clock where there is one."""
        return Clock(self.seconds, self.embeds.device)


class Clock:
    """Appends a function that gives the seconds spent inside a `with`."""

    def __init__(self, into: list[Any], device: torch.device) -> None:
        self.into, self.cuda = into, device.type == "cuda"

    def __enter__(self) -> None:
        if self.cuda:
            self.events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self.events[0].record()
        else:
            self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if not self.cuda:
            spent = time.perf_counter() - self.start
            self.into.append(lambda: spent)
            return
        start, end = self.events
        end.record()

        def seconds() -> float:
            end.synchronize()
            return start.elapsed_time(end) / 1e3

        self.into.append(seconds)


def total(seconds: list[Any]) -> float:
    """Sum of what clocks measured."""
    return float(sum(s() for s in seconds))
