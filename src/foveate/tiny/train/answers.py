"""The stage that makes the LLaVA: projector and decoder learn to answer; the vision tower stays as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.tiny import world
from foveate.tiny.anatomy import build_llava
from foveate.tiny.branches import LLAVA, TOKENS, Frame, answer_states, pack, right_answers
from foveate.tiny.inputs import to_pixels
from foveate.tiny.questions import Question
from foveate.tiny.train.attention import register
from foveate.tiny.train.labels import IGNORE, NONE_COLOR, NONE_KIND, NONE_LETTER, Labels, label
from foveate.tiny.train.micro import Micro
from foveate.tiny.train.pointing import WATCHED, pointing_loss
from foveate.tiny.train.stage import Check, Curve, Stage, run_stage
from foveate.tiny.train.start import start_matching
from foveate.tiny.train.vision import hidden_states
from foveate.tiny.vocabulary import COLORS, GRID, KINDS, LETTERS, PATTERNS, PLACES, WORDS
from foveate.tiny.world import Scene

_QUESTIONS = 16
_FAVOURED = 10
_NAMING = 0.3
_HELD_OUT = 64
_IDS = {
    name: torch.tensor([WORDS.index(w) for w in words])
    for name, words in (
        ("kind", KINDS),
        ("color", tuple(COLORS)),
        ("letter", LETTERS),
        ("place", PLACES),
        ("pattern", PATTERNS),
    )
}
_CELL = torch.tensor([(i // GRID // 8) * 3 + i % GRID // 8 for i in range(TOKENS)])


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


def new_llava(clip: Any, seed: int) -> Any:
    """An untrained LLaVA around a copy of the tower of `clip`, which is frozen, in bfloat16."""
    torch.manual_seed(seed)
    model = build_llava(register())
    start_matching(model.model.language_model)
    model = model.bfloat16()
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    model.model.vision_tower.requires_grad_(False)
    return model


def parameters(model: Any) -> dict[str, nn.Parameter]:
    """Projector and decoder, by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def train_answers(clip: Any, model: Any, lessons: tuple[Lesson, ...], folder: Path, processes: int) -> dict[str, Curve]:
    """The lessons in turn, each resumed if it was begun; the weights are changed in place."""
    curves = {}
    for lesson in lessons:
        stage = lesson.stage
        named = parameters(model)
        if not lesson.answer:
            named = {n: p for n, p in named.items() if "multi_modal_projector" in n or "embed_tokens" in n}
        check = validation(model, lambda s: model.model.multi_modal_projector(read_features(clip, s)))
        curves[stage.name] = run_stage(
            stage, named, _micro(clip, model, lesson), folder, check if lesson.answer else None, processes
        )
    return curves


@torch.no_grad()
def read_features(clip: Any, scenes: Sequence[Scene]) -> Tensor:
    """What LLaVA reads from the tower: the states before its last layer, without [CLS], B x 576 x C."""
    pixels = to_pixels(np.stack([np.asarray(s.image) for s in scenes]))
    where = torch.arange(TOKENS).expand(len(scenes), -1)
    last = len(clip.vision_model.encoder.layers) - 1
    return hidden_states(clip, pixels, where, last)[-1][:, 1:]


def _micro(clip: Any, model: Any, lesson: Lesson) -> Micro:
    words = model.model.language_model.embed_tokens.weight

    def learn(drawn: Drawn) -> dict[str, float]:
        kept = drawn.kept.to(words.device)
        features = read_features(clip, drawn.scenes)
        features = features.gather(1, kept[..., None].expand(-1, -1, features.shape[-1]))
        image = model.model.multi_modal_projector(features)
        naming = naming_loss(image, words, drawn.labels, kept)
        if not lesson.answer:
            naming.backward()
            return {"naming": float(naming.detach())}
        branches = pack(drawn.asked)
        watch = dict.fromkeys(WATCHED, image) if lesson.pointing else None
        states, targets = answer_states(model, image, kept, branches, watch)
        scores = model.lm_head(states).float()
        loss = F.cross_entropy(scores, targets)
        total = loss + _NAMING * naming
        figures: dict[str, float] = {}
        if watch is not None:
            pointing = pointing_loss(watch, branches, drawn.asked, kept, lesson.spelling, bool(lesson.favoured))
            total = total + lesson.pointing * sum(pointing.values())
            figures |= {f"point_{name}": float(value.detach()) for name, value in pointing.items()}
        total.backward()
        right = (scores.argmax(-1) == targets)[targets != WORDS.index("</s>")].float().mean()
        figures |= {"loss": float(loss.detach()), "naming": float(naming.detach()), "right": float(right)}
        return {**figures, "tokens": kept.shape[1]}

    return Micro(lambda step, number: draw(lesson, step, number), learn)


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


def naming_loss(image: Tensor, words: Tensor, labels: Sequence[Labels], kept: Tensor, placed: bool = True) -> Tensor:
    """A projected patch should lie near the words for what it shows and where it is: kind, colour, letter, place.

    A patch of a distractor should lie near the words for its pattern and its two colours.

    It is LLaVA's alignment stage in one line, and it stays on as a side condition. image B x K x D, words V x D. Where
    tokens cannot know their place yet, they are not `placed`.
    """
    flat = F.rms_norm(image.float(), image.shape[-1:])
    take = lambda value: torch.as_tensor(np.stack(value)).flatten(1, 2).gather(1, kept)  # noqa: E731
    kind, color = take([each.kind for each in labels]), take([each.color for each in labels])
    letters = [take([each.letters[..., i] for each in labels]) for i in range(3)]
    shown = (kind >= 0) & (kind < NONE_KIND)
    say = lambda name: flat[shown] @ words[_IDS[name]].float().T  # noqa: E731
    loss = F.cross_entropy(say("kind"), kind[shown])
    loss = loss + F.cross_entropy(say("color"), color[shown].where(color[shown] < NONE_COLOR, IGNORE))
    if placed:
        loss = loss + F.cross_entropy(say("place"), _CELL.to(kept.device)[kept][shown])
    letter = say("letter")
    for place in letters:
        seen = place[shown]
        seen = seen.where(seen < NONE_LETTER, IGNORE)
        if bool((seen >= 0).any()):
            loss = loss + F.cross_entropy(letter, seen, ignore_index=IGNORE) / 3
    pattern = take([each.pattern for each in labels])
    filled = pattern >= 0
    if bool(filled.any()):
        tints = torch.as_tensor(np.stack([each.tints for each in labels])).flatten(1, 2)
        tints = tints.gather(1, kept[..., None].expand(-1, -1, tints.shape[-1]))
        for name, target in (("pattern", pattern[filled]), ("color", tints[filled])):
            loss = loss + F.cross_entropy(flat[filled] @ words[_IDS[name]].float().T, target)
    return loss


def validation(model: Any, see: Callable[[Sequence[Scene]], Tensor], frame: Frame = LLAVA) -> Check:
    """Accuracy on validation scenes with all visual tokens, overall and by kind; `see` gives the tokens of scenes."""

    @torch.no_grad()
    def check(step: int) -> dict[str, float]:
        right: dict[str, list[float]] = defaultdict(list)
        for start in range(0, _HELD_OUT, 8):
            scenes = [world.scene("val", i) for i in range(start, start + 8)]
            questions: list[Question] = [q for s in scenes for q in s.questions]
            kept = torch.arange(frame.tokens).expand(len(scenes), -1)
            hits = right_answers(model, see(scenes), kept, [s.questions for s in scenes], frame)
            for question, hit in zip(questions, hits.tolist(), strict=True):
                right["all"].append(hit)
                right[question.kind].append(hit)
        return {kind: sum(hits) / len(hits) for kind, hits in sorted(right.items())}

    return check
