"""Asks selectors and drops what they do not keep, at one cut after another of a forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from foveate.choosing import Asked, choose, counts
from foveate.cut import Cut
from foveate.errors import ModelError, SignalError
from foveate.fields import ASKED, TOWER
from foveate.hf.prompt import Image, Prompt, anchored, candidates, squeeze_index
from foveate.hf.segment import Segment, along, gather
from foveate.hf.step import Step
from foveate.ops.precise import precise

Mixed = list[tuple[int, Tensor, Tensor]]
"""(row, places, states) of merged tokens."""


class Cutting:
    """The cuts of one prompt in one pass."""

    def __init__(self, step: Step, prompt: Prompt) -> None:
        self.step, self.prompt = step, prompt
        self.previous: dict[str, Any] | None = None
        """Arguments of the layer that ran last, where the next cut may ask for its attention."""
        self.towers: Mapping[str, Any] = {}
        """Text towers by the name under which selectors ask for them."""
        self.ids_BL: Tensor | None = None
        """The prompt's ids, where it came as ids."""

    def cut(self, cut: Cut, hidden: Tensor, attention: Any, norms: Any = None) -> Tensor:
        """Ask the selector and drop what it does not keep.

        Args:
            cut: where and how many.
            hidden: [B, M, D], the current segment's states.
            attention: asked-for Attention -> [B, M], for selectors that read it.
            norms: () -> [B, M], of the keys of the layer before, for selectors that read them.

        Returns:
            The states of the tokens that stay. Nothing to drop: `hidden` itself.
        """
        prompt, step = self.prompt, self.step
        slots = step.slots().to(hidden.device)
        streams, hidden = hidden, step.seen(hidden)
        reads = cut.select.reads
        step.by_text |= cut.over == "prompt" or bool(reads & ASKED)
        select: Any = cut.select
        with step.clock():
            # Computed when somebody is asked: a cut that drops nothing, or everything, has no use for it.
            calls = {
                "text_attn_BN": cache(lambda: attention(select.attention)),
                "prior_attn_BN": cache(lambda: attention(replace(select.attention, raters="prior"))),
                "key_norm_BN": cache(lambda: norms()),
            }
            ask = self._ask_prompts if cut.over == "prompt" else self._ask_images
            drop = ask(cut, hidden, slots, calls)
        most = counts(cut, [Asked(self.total(cut, i), len(i.alive), {}, None, i.row) for i in prompt.images])
        mixed = drop()
        for image, k in zip(prompt.images, most, strict=True):
            image.cuts.append((cut.at, k, image.alive))
        return streams if mixed is None else self.shorten(streams, slots, mixed)

    def _ask_images(
        self, cut: Cut, hidden: Tensor, slots: Tensor, calls: Mapping[str, Callable[[], Tensor]]
    ) -> Callable[[], Mixed | None]:
        """Choose among each image's tokens; what comes back does the dropping."""
        prompt, step = self.prompt, self.step
        questions: dict[int, Tensor] = {}

        def text(image: Image) -> Tensor:
            if image.row not in questions:
                questions[image.row] = step.embeds[image.row, prompt.question_BL[image.row]]
            return questions[image.row]

        def at(image: Image) -> tuple[int, Tensor]:
            return image.row, slots[image.row, image.place_N[image.alive].to(slots.device)]

        def read(call: Callable[[], Tensor], image: Image) -> Tensor:
            return call()[at(image)]

        def behind(image: Image) -> tuple[int, Tensor]:
            place = torch.arange(prompt.alive_BL.shape[1], device=prompt.alive_BL.device)
            text = prompt.alive_BL[image.row] & ~prompt.visual_BL[image.row] & (place > image.place_N[-1])
            return image.row, slots[image.row, place[text & (place <= prompt.last_B[image.row])].to(slots.device)]

        def signal(image: Image, name: str) -> Tensor:
            x = image.signals[TOWER[name]]
            return x[image.alive.to(x.device)]

        def asked(image: Image) -> Asked:
            fields: dict[str, Callable[[], Tensor]] = {name: partial(signal, image, name) for name in TOWER}
            fields["relevance_BN"] = lambda: self._relevance(cut, image, signal(image, "encoder_BNC"))
            fields["hidden_BND"] = lambda: hidden[at(image)]
            fields["text_BTD"] = lambda: text(image)
            fields["input_BND"] = lambda: step.embeds[image.row, image.place_N[image.alive].to(step.embeds.device)]
            for name, call in calls.items():
                fields[name] = partial(read, call, image)
            fields["text_hidden_BTD"] = lambda: hidden[behind(image)]
            fields["text_norm_BT"] = lambda: calls["key_norm_BN"]()[behind(image)]
            return Asked(
                image.tokens,
                len(image.alive),
                fields,
                image.grid,
                image.row,
                f"image {image.number} of prompt {image.row}",
            )

        answers = choose(cut, [asked(i) for i in prompt.images])

        def drop() -> Mixed | None:
            mixed: Mixed = []
            for number, kept, mix in answers:
                image = prompt.images[number]
                before, places = at(image), image.place_N[image.alive]
                prompt.alive_BL[image.row, places] = False
                image.alive = image.alive[kept.to(image.alive.device)]
                stays = image.place_N[image.alive]
                image.alive = anchored(image)
                prompt.alive_BL[image.row, image.place_N[image.alive]] = True
                if mix is not None:
                    with precise(hidden.device):
                        mixed.append((image.row, stays, mix.to(hidden.dtype) @ hidden[before]))
                    step.mixes.append((image.row, places, stays, mix))
            return mixed if answers else None

        return drop

    def _relevance(self, cut: Cut, image: Image, features_NC: Tensor) -> Tensor:
        """Similarity of an image's tokens and its prompt's question, by the selector's text tower."""
        if self.ids_BL is None:
            raise SignalError(
                f"{type(cut.select).__name__} reads the question's words, but the prompt came as embeddings; pass "
                "input_ids"
            )
        tower = self.towers[getattr(cut.select, "text_tower")]  # noqa: B009
        asks = self.prompt.question_BL[image.row]
        found: Tensor = tower.similarity(features_NC, self.ids_BL[image.row].to(asks.device)[asks])
        return found

    def _ask_prompts(
        self, cut: Cut, hidden: Tensor, slots: Tensor, calls: Mapping[str, Callable[[], Tensor]]
    ) -> Callable[[], Mixed | None]:
        """Choose among the image tokens and the question of each prompt."""
        prompt, step = self.prompt, self.step

        def fields(row: int, place: Tensor) -> dict[str, Callable[[], Tensor]]:
            return {
                "hidden_BND": lambda: hidden[row, slots[row, place]],
                "text_BTD": lambda: step.embeds[row, prompt.question_BL[row]],
                "text_attn_BN": lambda: calls["text_attn_BN"]()[row, slots[row, place]],
                "text_BN": lambda: prompt.loose_BL[row, place],
            }

        answers: list[tuple[int, Tensor]] = []
        for row in sorted({i.row for i in prompt.images}):
            place = candidates(prompt, row)
            one = Asked(int(prompt.open_BL[row].sum()), len(place), fields(row, place), name=f"prompt {row}")
            answers += [(row, place[stay.kept.to(place.device)]) for stay in choose(cut, [one])]

        def drop() -> Mixed | None:
            for row, stays in answers:
                prompt.alive_BL[row, candidates(prompt, row)] = False
                prompt.alive_BL[row, stays] = True
                for image in prompt.images:
                    if image.row == row:
                        image.alive = image.alive[prompt.alive_BL[row, image.place_N[image.alive]]]
            return [] if answers else None

        return drop

    def total(self, cut: Cut, image: Image) -> int:
        """What a cut's keep is relative to: the image's tokens, or all candidates of its prompt."""
        if cut.over == "visual":
            return image.tokens
        return int(self.prompt.open_BL[image.row].sum())

    def shorten(self, hidden: Tensor, slots: Tensor, mixed: Mixed) -> Tensor:
        """Start the segment of what is alive, and give its states. Mixed tokens are written into the new tensor."""
        index, filled = squeeze_index(self.prompt.alive_BL)
        out = along(hidden, gather(slots, index), self.step.b, self.step.width(hidden))
        self.step.segment = Segment(index, new=True, filled=filled)
        if mixed:
            if hidden.ndim != 3:
                raise ModelError("this model keeps several states a token, so tokens cannot be merged between layers")
            out = out.clone()
            now = self.step.slots().to(out.device)
            for row, stays, states in mixed:
                out[row, now[row, stays.to(now.device)]] = states
        return out
