"""One pass of the language model over a prompt or a cache that is cut. (long: what has places, is cut in one place)

A *segment* is the set of tokens that a run of layers sees. The first is what is left at the input; each cut at a layer
starts another. The language model itself builds everything at full length, masks and tables included; its layers get
what is left of it (`layers.py`).
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from foveate.errors import ModelError
from foveate.hf.cache import cuts_of, given, kept_of, length
from foveate.hf.clock import Clock, Seconds
from foveate.hf.cut_layers import Cuttable, cut_layer, holds_keys, may_be_cut
from foveate.hf.families.base import Family
from foveate.hf.kept import Kept, extend
from foveate.hf.prompt import last_real
from foveate.hf.segment import Segment, along, gather
from foveate.ops.host import read, upload
from foveate.ops.precise import precise


class Step:
    """See the module's docstring. Made in the language model's pre-hook, dropped in its post-hook."""

    def __init__(
        self,
        family: Family,
        language_model: Any,
        kwargs: dict[str, Any],
        contiguous: bool,
        real_BT: Tensor | None = None,
    ) -> None:
        self.family, self.lm, self.contiguous = family, language_model, contiguous
        self.cache: Any = given(kwargs)
        self.past = length(self.cache)
        self.embeds = kwargs["inputs_embeds"]
        self.b, self.l = self.embeds.shape[:2]
        self.mask: Tensor | None = kwargs.get("attention_mask")
        """The padding mask, where there is one; it may be of the new tokens alone."""
        self._real, self._told = real_BT, kwargs.get("position_ids")
        for kept in cuts_of(self.cache):
            kept.told.lead(self, whole=True)
        self.by_text = False
        """Whether some selector read the prompt's text."""
        self.padded = True
        """Whether some position is padding, as far as is known."""
        self.guesses = 0
        """How many of this pass's last tokens were guessed by assisted decoding, and may be taken back."""
        self.segment = self.base = Segment(None)
        self.of_layer: list[Segment] = []
        """The segment of each layer that ran, in order."""
        self.of_cache: dict[int, Segment] = {}
        """The same by the layer's place in the cache."""
        self.seconds: list[Seconds] = []
        self.visual_BL: Tensor | None = None
        """Visual positions of the input, in host memory, where something is cut."""
        self._slots: tuple[Segment, Tensor] | None = None
        self.mixes: list[tuple[int, Tensor, Tensor, Tensor]] = []
        """(row, places before, places after, weights) of tokens that were merged, in order."""
        self.sizes_BL: Tensor | None = None
        """How many tokens each place stands for, where attention is to know; None: one each."""
        self.distance = False
        """Whether it is to know how far tokens are apart as well."""

    # -- geometry

    @property
    def total(self) -> int:
        """Positions there are: those in the cache, and this pass's."""
        return self.past + self.l

    @cached_property
    def position_ids(self) -> Tensor:
        """Position ids of this pass's tokens: as the language model was given them, or as it counts them."""
        if self._told is not None:
            return self._told
        return (torch.arange(self.l, device=self.embeds.device) + self.past).unsqueeze(0)

    @cached_property
    def real_BT(self) -> Tensor:
        """Padding mask of all positions, in host memory."""
        if self._real is None and self.mask is not None:
            self._real = read(self.mask)[0]
        if self._real is None:
            return torch.ones(self.b, self.total, dtype=torch.bool)
        return self._whole(self._real)

    @property
    def real_BL(self) -> Tensor:
        """Of this pass's own tokens."""
        return self.real_BT[:, self.past :]

    @cached_property
    def mask_BT(self) -> Tensor:
        """Padding mask of all positions, where the language model is."""
        device = self.embeds.device
        if self.mask is None:
            return torch.ones(self.b, self.total, dtype=torch.bool, device=device)
        return self._whole(self.mask.to(device))

    def _whole(self, mask: Tensor) -> Tensor:
        # A mask over the new tokens alone: what the cache holds is real.
        gap = self.total - mask.shape[1]
        return torch.nn.functional.pad(mask.bool(), (gap, 0), value=True) if gap > 0 else mask.bool()

    def mask2d(self, kept: Kept | None, segment: Segment) -> Tensor:
        """Padding mask over what a layer sees: the entries of its cache, then this pass's tokens."""
        past, own = self.mask_BT[:, : self.past], self.mask_BT[:, self.past :]
        if segment.index_BM is not None:
            own = gather(own, segment.safe_BM) & (segment.index_BM >= 0)
        return torch.cat((past if kept is None else kept.squeeze(past), own), 1)

    def positions(self, kept: Kept | None, segment: Segment) -> Tensor:
        """Position ids for a layer's tokens, [B, M] or [axes, B, M]."""
        ids = self.position_ids
        shift = None if kept is None else kept.shift_B
        if shift is not None:
            ids = ids - shift.to(ids.device).unsqueeze(-1)
        if segment.index_BM is None:
            return ids
        axis = ids.ndim - 1
        if not (self.contiguous and segment.new):
            return gather(ids, segment.safe_BM, axis)
        # Renumber without gaps, on from where the first real token stands; a row that lost nothing keeps its places.
        host = segment.host_BM
        assert host is not None
        real = gather(self.real_BL, host.clamp(min=0)) & (host >= 0)
        whole = (real.sum(1) == self.real_BL.sum(1)).unsqueeze(1)
        rank = (real.long().cumsum(1) - 1).clamp(min=0)
        first = self.real_BL.long().argmax(1, keepdim=True)
        told = upload(torch.cat((rank, first, whole.long()), 1), ids.device)
        new = gather(ids, told[:, -2:-1], axis) + told[:, :-2]
        return torch.where(told[:, -1:] > 0, gather(ids, segment.safe_BM, axis), new) if bool(whole.any()) else new

    def shift(self, kept: Kept | None, segment: Segment) -> Tensor | None:
        """How far positions after this pass move down, for the cache."""
        if not self.contiguous or segment.index_BM is None:
            return None if kept is None else kept.shift_B
        ids = self.position_ids
        new = self.positions(kept, segment)
        last = upload(last_real(self.real_BL).unsqueeze(1), ids.device)
        before = gather(ids, last, ids.ndim - 1)[..., 0]
        after = new[..., -1]
        moved = before - after
        # With three axes, later text continues from the largest of them.
        return moved.reshape(-1, moved.shape[-1])[-1]

    def slots(self) -> Tensor:
        """Where each place of the input is in the current segment, in host memory: [B, L]."""
        if self._slots is None or self._slots[0] is not self.segment:
            self._slots = self.segment, self.segment.slots(self.b, self.l)
        return self._slots[1]

    def table(self, kept: Kept | None, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Rotary tables of the current segment, where its positions are not the ones the language model was given."""
        shift = None if kept is None else kept.shift_B
        key = id(shift), self.segment.new
        if key not in self.segment.tables:
            ids = self.positions(kept, self.segment)
            if self.family.mrope:
                ids = ids.expand(3, -1, -1) if ids.ndim == 2 else ids[-3:]
            self.segment.tables[key] = self.lm.rotary_emb(hidden, position_ids=ids.to(hidden.device))
        return self.segment.tables[key]

    # -- the language model's own arguments

    def moved(self) -> dict[str, Any]:
        """What the language model is told anew: positions, where an earlier cut moved later tokens down."""
        kept = kept_of(self.cache, self.first_with_keys())
        return {} if kept is None or kept.shift_B is None else {"position_ids": self.positions(kept, Segment(None))}

    def arguments(self) -> dict[str, Any]:
        """What a language model would get that runs on the base segment alone, without a cache: positions and mask."""
        out: dict[str, Any] = {"position_ids": self.positions(None, self.base)}
        if self.base.index_BM is not None or self.mask is not None:
            out["attention_mask"] = self.mask2d(None, self.base)
        return out

    def first_with_keys(self) -> int:
        """The first layer of the cache that holds keys."""
        return next((i for i, x in enumerate(self.cache.layers) if holds_keys(x)), 0) if self.cache else 0

    # -- states

    def width(self, hidden: Tensor) -> int:
        """How many tokens these states are of. Gemma 3n's several streams stand in front of the batch."""
        return hidden.shape[2] if hidden.ndim == 4 and hidden.shape[1] == self.b else hidden.shape[1]

    def seen(self, hidden: Tensor) -> Tensor:
        """One state a token, [B, M, D], for selectors: of several streams in front the first, of others the mean."""
        if hidden.ndim == 3:
            return hidden
        return hidden[0] if hidden.shape[1] == self.b and hidden.shape[0] != self.b else hidden.mean(2)

    def first(self, hidden: Tensor) -> Tensor:
        """The base segment's states, from what the first layer was given: merged tokens are mixed here."""
        if self.base.index_BM is None:
            return hidden
        if self.mixes:
            if hidden.ndim != 3:
                raise ModelError(f"{type(self.lm).__name__} keeps several states a token, so tokens cannot be merged")
            hidden = hidden.clone()
            for row, before, stays, mix in self.mixes:
                with precise(hidden.device):
                    hidden[row, stays.to(hidden.device)] = mix.to(hidden) @ hidden[row, before.to(hidden.device)]
        return along(hidden, self.base.safe_BM, self.b, self.l)

    def short(self, hidden: Tensor) -> Tensor:
        """The current segment's states, from states of all places; of the last places alone they stay as they are."""
        if self.segment.index_BM is None or self.width(hidden) != self.l:
            return hidden
        return along(hidden, self.segment.safe_BM, self.b, self.l)

    def long(self, hidden: Tensor) -> Tensor:
        """States of all places from the current segment's, zeros elsewhere."""
        if hidden.ndim == 4 and hidden.shape[1] == self.b:
            return torch.stack([self.segment.scatter(x, self.l) for x in hidden])
        return self.segment.scatter(hidden, self.l)

    def deepstack(self, hidden: Tensor, visual_BL: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
        """DeepStack's mask and plane for the current segment, from those of the whole input.

        Args:
            hidden: [B, M, D], where the plane is to be added.
            visual_BL: visual positions of the input.
            plane: one row for each of them, prompt by prompt.
        """
        segment = self.segment
        if segment.index_BM is None:
            return visual_BL, plane
        device = hidden.device
        visual = read(visual_BL)[0] if self.visual_BL is None else self.visual_BL
        host = segment.host_BM
        assert visual is not None and host is not None
        shown = gather(visual, host.clamp(min=0)) & (host >= 0)
        # Numbers of places and of slots, so that nothing has to be counted on the device.
        places, slots = (x.flatten().nonzero().flatten() for x in (visual, shown))
        told = upload(torch.cat((places, slots)), device)
        full = hidden.new_zeros(visual.numel(), hidden.shape[-1]).index_copy_(0, told[: len(places)], plane.to(hidden))
        full = full.view(*visual.shape, -1)
        # A token that stands for several carries their planes in the same proportions.
        for row, before, stays, mix in self.mixes:
            with precise(full.device):
                full[row, stays.to(device)] = mix.to(full) @ full[row, before.to(device)]
        kept = gather(full, segment.safe_BM).flatten(0, 1).index_select(0, told[len(places) :])
        return upload(shown, device), kept

    # -- afterwards

    def remember(self, cache: Any) -> None:
        """Tell each layer of the cache what its entries stand for."""
        told: dict[tuple[int, int], Kept] = {}
        for i, segment in self.of_cache.items():
            if i >= len(cache.layers) or segment.index_BM is None or not may_be_cut(layer := cache.layers[i]):
                continue
            old = getattr(layer, "kept", None)
            key = id(old), id(segment)
            if key not in told:
                shift = self.shift(old, segment)
                told[key] = extend(
                    old, self.past, segment.index_BM, self.l, shift, self.by_text, self.guesses, segment.filled,
                    segment.bias_BM,
                )  # fmt: skip
            if isinstance(layer, Cuttable):
                layer.kept = told[key]
            else:
                cache.layers[i] = cut_layer(layer, told[key])

    def clock(self) -> Clock:
        """Times what happens inside a `with`, on the device's own clock where there is one."""
        return Clock(self.seconds, self.embeds.device)
