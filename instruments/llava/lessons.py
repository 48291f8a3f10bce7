"""A lesson: which scenes the decoder is asked about, what it is asked, and which visual tokens it sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveate.tiny import world
from foveate.tiny.branches import LLAVA, TOKENS, Frame
from foveate.tiny.questions import Question
from foveate.tiny.world import Scene
from instruments.llava.labels import Labels, label
from instruments.llava.stage import Stage

_QUESTIONS = 16
_FAVOURED = 10


@dataclass(frozen=True)
class Lesson:
    """A stage on scenes numbered from `origin`.

    `tiers`: which to draw from, all by their shares if None. `budgets`: how many visual tokens the model sees, in turn.
    `answer`: False trains the projector and the words alone, on naming what patches show, without the decoder.
    `pointing`: weight of the losses that show a few heads where to look; with `spelling`, letters of plates too.
    `favoured`: kinds of question to ask more often.
    """

    stage: Stage
    origin: int
    tiers: tuple[str, ...] | None = None
    budgets: tuple[int, ...] = (TOKENS,)
    answer: bool = True
    pointing: float = 0.0
    spelling: bool = False
    favoured: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """Scenes of a micro-batch, what their patches show, the questions asked of each, and the visual tokens that stay,
    B x K."""

    scenes: list[Scene]
    labels: list[Labels]
    asked: list[list[Question]]
    kept: Tensor


def draw(lesson: Lesson, step: int, number: int, frame: Frame = LLAVA) -> Drawn:
    """The micro-batch `number` of `step`, its pictures painted."""
    rng = np.random.Generator(np.random.PCG64([lesson.origin, step, number]))
    scenes = draw_scenes(lesson, rng, step, number)
    labels = [label(s) for s in scenes]
    # One budget for the micro-batches of a step, so that none of them has to wait for a longer one.
    budget = lesson.budgets[step % len(lesson.budgets)]
    kept = torch.stack([_draw(rng, each, budget, frame.tokens) for each in labels])
    return Drawn(scenes, labels, [choose(rng, s.questions, lesson.favoured) for s in scenes], kept)


def draw_scenes(lesson: Lesson, rng: np.random.Generator, step: int, number: int) -> list[Scene]:
    """The scenes of one micro-batch; where kinds are favoured, with three times the questions to choose from."""
    most = 3 * _QUESTIONS if lesson.favoured else _QUESTIONS
    scenes = []
    for i in lesson.stage.numbers(step, number, lesson.origin):
        tier = None if lesson.tiers is None else str(rng.choice(lesson.tiers))
        scenes.append(world.scene("train", i, most, tier))
    return scenes


def choose(rng: np.random.Generator, questions: Sequence[Question], favoured: tuple[str, ...]) -> list[Question]:
    """At most 16 of the questions; 10 of them of favoured kinds, if there are any such kinds and so many questions."""
    hard = [q for q in questions if q.kind in favoured][:_FAVOURED]
    easy = [q for q in questions if q.kind not in favoured]
    if favoured:
        easy = [easy[i] for i in rng.permutation(len(easy))]
    return [*hard, *easy][:_QUESTIONS]


def _draw(rng: np.random.Generator, labels: Labels, budget: int, tokens: int) -> Tensor:
    """Visual tokens of a training image, rising: those of things first (in 3 of 10 images only 6 of 10), then any."""
    if budget >= tokens:
        return torch.arange(tokens)
    share = 1.0 if rng.random() < 0.7 else 0.6
    urge = rng.random(tokens) + 2 * ((labels.owner.ravel() >= 0) & (rng.random(tokens) < share))
    return torch.from_numpy(np.sort(np.argpartition(-urge, budget - 1)[:budget]))
