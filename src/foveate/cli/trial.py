"""A small trial on the embedded world: the same held-out questions to every way of answering, batch by batch in turn.

Ways are plans, the whole image, and the image scaled down until it has as few tokens. Time is what `generate` takes,
choosing tokens included; since every batch goes through all ways before the next one, a machine that slows down slows
down all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from foveate.bench.downsample import fewer_patches, interpolated
from foveate.cut import Cut
from foveate.engines.prompting import Prompt
from foveate.hf.attach import attach
from foveate.methods.uniform import Uniform
from foveate.plan import Plan
from foveate.tiny import world
from foveate.tiny.inputs import PROMPT
from foveate.tiny.statistics import wilson
from foveate.tiny.vocabulary import GRID

BATCH = 8
LONGEST = 6
"""Tokens; a plate's three letters are the longest answer."""


@dataclass(frozen=True)
class Asked:
    """One question about one scene."""

    image: Image.Image
    text: str
    answer: str
    kind: str
    tier: str


@dataclass
class Way:
    """One way of answering, and how it went."""

    name: str
    keep: float = 1.0
    plan: Plan | None = None
    scaled: bool = False
    """The image is scaled down to the same number of tokens, and nothing is dropped."""
    answers: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    budgets: list[float] = field(default_factory=list)
    kept: list[tuple[int, ...]] = field(default_factory=list)
    """Original indices left at the cut that is nearest to the budget, a question each; empty without a plan."""
    times: list[float] = field(default_factory=list)
    """Seconds, a batch each."""

    @property
    def seconds(self) -> float:
        """Of all answers."""
        return sum(self.times)

    def figures(self, asked: Sequence[Asked], full: Way) -> dict[str, Any]:
        """What the table says, as plain data."""
        right = sum(a == q.answer for a, q in zip(self.answers, asked, strict=True))
        n = len(asked)
        return {
            "method": self.name,
            "keep": self.keep,
            "questions": n,
            "accuracy": right / n,
            "interval_95": list(wilson(right, n)),
            "agreement": sum(a == b for a, b in zip(self.answers, full.answers, strict=True)) / n,
            "tokens": fmean(self.tokens),
            "budget": fmean(self.budgets),
            "time_ratio": full.seconds / self.seconds,
            "answers": self.answers,
        }


def questions(count: int, split: str = "test") -> list[Asked]:
    """The first questions of a split, two a scene."""
    out: list[Asked] = []
    index = 0
    while len(out) < count:
        scene = world.scene(split, index, questions=2)
        out += [Asked(scene.image, q.text, q.answer, q.kind, q.tier) for q in scene.questions]
        index += 1
    return out[:count]


def run(model: Any, processor: Any, asked: Sequence[Asked], ways: Sequence[Way]) -> Iterator[int]:
    """Ask everything every way; yields how many answers there are in all, for a progress bar."""
    processor.tokenizer.padding_side = "left"
    for way in ways:
        # Not counted: what is compiled or allocated once. One question does that as well as a batch.
        _ask(model, processor, asked[:1], Way(way.name, way.keep, way.plan, way.scaled))
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        for number, way in enumerate(ways, 1):
            _ask(model, processor, batch, way)
            yield start * len(ways) + number * len(batch)


def common(asked: Sequence[Asked], ways: Sequence[Way]) -> list[Asked]:
    """The questions that every way has answered; the ways forget the others. For a run that was broken off."""
    count = min(len(w.answers) for w in ways)
    for way in ways:
        for part in (way.answers, way.tokens, way.budgets, way.kept):
            del part[count:]  # type: ignore[attr-defined]
        del way.times[-(-count // BATCH) :]
    return list(asked[:count])


def _ask(model: Any, processor: Any, batch: Sequence[Asked], way: Way) -> None:
    texts = [PROMPT.format(question=q.text) for q in batch]
    inputs = processor(text=texts, images=[q.image for q in batch], padding=True, return_tensors="pt")
    whole = GRID * GRID
    with torch.inference_mode():
        if way.plan is not None:
            with attach(model, way.plan) as attached:
                new = _generate(way, model, inputs, inputs["input_ids"].shape[1])
                report = attached.report
            assert report is not None
            way.tokens += [i.per_layer[-1] for i in report.images]
            way.budgets += [i.budget for i in report.images]
            way.kept += [min(i.cuts, key=lambda c: abs(c.count - i.budget)).kept for i in report.images]
        elif way.scaled:
            engine: Any = SimpleNamespace(model=model, facts=SimpleNamespace(model_type=model.config.model_type))
            few = fewer_patches(engine, Prompt(dict(inputs), 0), Cut("input", Uniform(), way.keep)).inputs
            with interpolated(engine):
                new = _generate(way, model, few, few["input_ids"].shape[1])
            left = int((few["input_ids"][0] == model.config.image_token_id).sum())
            way.tokens += [left] * len(batch)
            way.budgets += [float(left)] * len(batch)
        else:
            new = _generate(way, model, inputs, inputs["input_ids"].shape[1])
            way.tokens += [whole] * len(batch)
            way.budgets += [float(whole)] * len(batch)
    way.answers += [t.strip() for t in processor.batch_decode(new, skip_special_tokens=True)]


def _generate(way: Way, model: Any, inputs: Any, prompt: int) -> Tensor:
    begin = time.perf_counter()
    output = model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
    way.times.append(time.perf_counter() - begin)
    return output[:, prompt:]
