"""Texts about things: short captions for patches, captions and questions for whole images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveate.tiny.layout import Thing
from foveate.tiny.vocabulary import COLORS, KINDS, PLURALS, SHAPES, noun

_COLORS = list(COLORS)
_PAIRS = len(KINDS) * len(_COLORS)
_OTHERS = 30


def pair(color: str, kind: str) -> int:
    """The number of a colour and kind among all 152 pairs."""
    return KINDS.index(kind) * len(_COLORS) + _COLORS.index(color)


@dataclass(frozen=True)
class Bank:
    """Texts in order: every kind, every colour, some pairs, the background. `row[p]` is pair p's place among the pairs;
    the last entry of `row` is the background's."""

    texts: list[str]
    row: Tensor


def bank(rng: np.random.Generator, present: Sequence[int], questions: bool) -> Bank:
    """Fresh wordings for all kinds, all colours, the pairs `present` and 30 others.

    With `questions`, half of the texts are questions; without, all are captions.
    """
    extra = [int(p) for p in rng.choice(_PAIRS, size=_OTHERS, replace=False)]
    pairs = sorted({*present, *extra})
    row = torch.full((_PAIRS + 1,), -1)
    row[torch.tensor(pairs)] = torch.arange(len(pairs))
    row[-1] = len(pairs)
    texts = [_kind(rng, k, questions) for k in KINDS] + [_color(rng, c, questions) for c in _COLORS]
    texts += [_pair(rng, _COLORS[p % len(_COLORS)], KINDS[p // len(_COLORS)], questions) for p in pairs]
    texts.append(str(rng.choice(["background", "nothing", "a photo of the background"])))
    return Bank(texts, row)


def caption(rng: np.random.Generator, things: Sequence[Thing]) -> tuple[str, set[int]]:
    """One to three of the things in words, and the pairs that were named."""
    chosen = rng.permutation(len(things))[: int(rng.integers(1, 4))]
    named = [things[i] for i in chosen]
    text = " and ".join(f"a {t.color} {noun(t.kind)}" for t in named)
    return text, {pair(t.color, t.kind) for t in named}


def _one(rng: np.random.Generator, captions: list[str], questions: list[str], ask: bool) -> str:
    return str(rng.choice(questions if ask and rng.random() < 0.5 else captions))


def _kind(rng: np.random.Generator, kind: str, ask: bool) -> str:
    name = noun(kind)
    questions = [f"what color is the {name}", f"what color is the thing left of the {name}"]
    if kind in SHAPES:
        questions.append(f"how many {PLURALS[kind]} are there")
    return _one(rng, [name, f"a {name}", f"a photo of a {name}"], questions, ask)


def _color(rng: np.random.Generator, color: str, ask: bool) -> str:
    questions = [f"what shape is {color}", f"what letter is {color}"]
    return _one(rng, [color, f"a {color} thing", f"{color} objects"], questions, ask)


def _pair(rng: np.random.Generator, color: str, kind: str, ask: bool) -> str:
    name = f"{color} {noun(kind)}"
    questions = [f"is there a {name}", f"where is the {name}"]
    return _one(rng, [name, f"a {name}", f"a photo of a {name}"], questions, ask)
