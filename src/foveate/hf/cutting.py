"""Asks selectors and drops what they do not keep, at one cut after another of a forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from foveate.choosing import Asked, choose, counts
from foveate.cut import Cut
from foveate.errors import SignalError
from foveate.fields import ASKED, TOWER
from foveate.hf.prompt import Image, Prompt, candidates
from foveate.hf.shorten import Shortening, Taken, chosen
from foveate.hf.step import Step
from foveate.ops.doubts import Doubts, later
from foveate.ops.host import rows_of, upload

Answers = tuple[list[Taken] | None, list[int]]
"""What stays of each image that loses something, None where none does; how many of each image's might have stayed."""


class Cutting(Shortening):
    """The cuts of one prompt in one pass."""

    def __init__(self, step: Step, prompt: Prompt, doubts: Doubts) -> None:
        super().__init__(step, prompt)
        self.doubts = doubts
        self.previous: dict[str, Any] | None = None
        """Arguments of the layer that ran last, where the next cut may ask for its attention."""
        self.towers: Mapping[str, Any] = {}
        """Text towers by the name under which selectors ask for them."""
        self.words: Mapping[Any, Callable[[Tensor], Tensor]] = {}
        """What tells which tokens of a question count, by the rule that selectors name."""
        self.ids_BL: Tensor | None = None
        """The prompt's ids, where it came as ids."""

    def begin(self, hidden: Tensor, asked: Cut | None) -> Tensor:
        """Drop what an encoder cut has left nothing of; `asked` is that cut."""
        images = self.prompt.images
        for i in images:
            if i.sizes_N is not None:
                self.size(i.row, upload(i.place_N, hidden.device), i.sizes_N.to(hidden.device))
        if any(len(i.alive) < i.tokens for i in images):
            slots = self.step.slots()
            hidden = self.shorten(
                hidden, [Taken(i, slots[i.row, i.place_N], chosen(i), None) for i in images if not i.known]
            )
        if asked is not None:
            for image in images:
                self.note(image, "encoder", sum(asked.count(n) for n in image.units))
        return hidden

    def cut(self, cut: Cut, hidden: Tensor, attention: Any, norms: Any = None) -> Tensor:
        """Ask the selector and drop what it does not keep.

        Args:
            cut: where and how many.
            hidden: [B, M, D], the current segment's states.
            attention: asked-for Attention -> [B, M], for selectors that read it; with apart=True [B, R, M].
            norms: () -> [B, M], of the keys of the layer before, for selectors that read them.

        Returns:
            The states of the tokens that stay. Nothing to drop: `hidden` itself.
        """
        prompt, step = self.prompt, self.step
        streams, hidden = hidden, step.seen(hidden)
        reads = cut.select.reads
        step.by_text |= cut.over == "prompt" or bool(reads & ASKED)
        select: Any = cut.select
        with step.clock(), later(self.doubts):
            # Computed when somebody is asked: a cut that drops nothing, or everything, has no use for it.
            calls = {
                "text_attn_BN": cache(lambda: attention(select.attention)),
                "prior_attn_BN": cache(lambda: attention(replace(select.attention, raters="prior"))),
                "key_norm_BN": cache(lambda: norms()),
                "text_rows_BRN": cache(lambda: attention(select.attention, apart=True).transpose(1, 2)),
            }
            taken, most = (self._ask_prompts if cut.over == "prompt" else self._ask_images)(cut, hidden, calls)
        if taken is not None:
            streams = self.shorten(streams, taken)
        for image, k in zip(prompt.images, most, strict=True):
            self.note(image, cut.at, k)
        return streams

    def _ask_images(self, cut: Cut, hidden: Tensor, calls: Mapping[str, Callable[[], Tensor]]) -> Answers:
        """Choose among each image's tokens."""
        prompt, step = self.prompt, self.step
        slots_BL = step.slots()
        slots = [slots_BL[i.row, i.place_N[i.alive]] for i in prompt.images]
        places = torch.arange(step.l)

        @cache
        def text(row: int) -> Tensor:
            place = prompt.question_BL[row].nonzero().flatten()
            if cut.words is not None:
                place = place[self.words[cut.words](self._ids(cut)[row][place])]
            return rows_of(step.embeds, row, place)

        @cache
        def behind(number: int) -> Tensor:
            image = prompt.images[number]
            after = (places > image.place_N[-1]) & (places <= prompt.last_B[image.row])
            return slots_BL[image.row, prompt.alive_BL[image.row] & ~prompt.visual_BL[image.row] & after]

        def read(call: Callable[[], Tensor], number: int) -> Tensor:
            return rows_of(call(), prompt.images[number].row, slots[number])

        def signal(number: int, name: str) -> Tensor:
            image = prompt.images[number]
            x = image.signals[TOWER[name]]
            return x if len(image.alive) == image.tokens else x.index_select(0, upload(self.left(image)(), x.device))

        def given(number: int) -> Tensor:
            image, x = prompt.images[number], step.embeds
            if image.known:
                return rows_of(x, image.row, image.place_N[image.alive])
            return x[image.row].index_select(0, self.left(image)() + image.first)

        def asked(number: int) -> Asked:
            image = prompt.images[number]
            fields: dict[str, Callable[[], Tensor]] = {name: partial(signal, number, name) for name in TOWER}
            fields["relevance_BN"] = lambda: self._relevance(cut, image, signal(number, "encoder_BNC"))
            fields["hidden_BND"] = lambda: rows_of(hidden, image.row, slots[number])
            fields["text_BTD"] = lambda: text(image.row)
            fields["input_BND"] = lambda: given(number)
            for name, call in calls.items():
                fields[name] = partial(read, call, number)
            fields["text_rows_BRN"] = lambda: read(calls["text_rows_BRN"], number).mT
            fields["text_hidden_BTD"] = lambda: rows_of(hidden, image.row, behind(number))
            fields["text_norm_BT"] = lambda: rows_of(calls["key_norm_BN"](), image.row, behind(number))
            return Asked(
                image.tokens,
                len(image.alive),
                fields,
                image.grid,
                image.row,
                f"image {image.number} of prompt {image.row}",
                told=image.anchor is not None or not image.unbroken,
            )

        records = [asked(i) for i in range(len(prompt.images))]
        stays = choose(cut, records, most := counts(cut, records))
        return [Taken(prompt.images[i], slots[i], kept, mix, cut.sized) for i, kept, mix in stays] or None, most

    def _relevance(self, cut: Cut, image: Image, features_NC: Tensor) -> Tensor:
        """Similarity of an image's tokens and its prompt's question, by the selector's text tower."""
        tower = self.towers[getattr(cut.select, "text_tower")]  # noqa: B009
        asks = self.prompt.question_BL[image.row]
        found: Tensor = tower.similarity(features_NC, self._ids(cut)[image.row][asks])
        return found

    def _ids(self, cut: Cut) -> Tensor:
        if self.ids_BL is None:
            raise SignalError(
                f"{type(cut.select).__name__} reads the question's words, but the prompt came as embeddings; pass "
                "input_ids"
            )
        return self.ids_BL

    def _ask_prompts(self, cut: Cut, hidden: Tensor, calls: Mapping[str, Callable[[], Tensor]]) -> Answers:
        """Choose among the image tokens and the question of each prompt. The answers are waited for: text may go."""
        prompt, step = self.prompt, self.step
        slots_BL = step.slots()

        def fields(row: int, place: Tensor) -> dict[str, Callable[[], Tensor]]:
            slots = slots_BL[row, place]
            return {
                "hidden_BND": lambda: rows_of(hidden, row, slots),
                "text_BTD": lambda: rows_of(step.embeds, row, prompt.question_BL[row].nonzero().flatten()),
                "text_attn_BN": lambda: rows_of(calls["text_attn_BN"](), row, slots),
                "text_BN": lambda: upload(prompt.loose_BL[row, place], hidden.device),
            }

        places: dict[int, Tensor] = {row: candidates(prompt, row) for row in sorted({i.row for i in prompt.images})}
        rows, asked = list(places), []
        for row, place in places.items():
            n = int(prompt.open_BL[row].sum())
            asked.append(Asked(n, len(place), fields(row, place), name=f"prompt {row}", told=True))
        stays = choose(cut, asked)
        taken = []
        for number, kept, _ in stays:
            row = rows[number]
            prompt.alive_BL[row, places[row]] = False
            prompt.alive_BL[row, places[row][kept.cpu()]] = True
            for image in prompt.images:
                if image.row == row:
                    now = image.place_N[image.alive]
                    there = prompt.alive_BL[row, now].nonzero().flatten()
                    taken.append(Taken(image, slots_BL[row, now], there, None))
        return taken if stays else None, [cut.count(self.total(cut, i)) for i in prompt.images]

    def total(self, cut: Cut, image: Image) -> int:
        """What a cut's keep is relative to: the image's tokens, or all candidates of its prompt."""
        if cut.over == "visual":
            return image.tokens
        return int(self.prompt.open_BL[image.row].sum())
