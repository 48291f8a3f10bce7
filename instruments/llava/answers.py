"""The lessons that make the LLaVA: projector and decoder learn to answer; the vision tower stays as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
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
from foveate.tiny.vocabulary import WORDS
from foveate.tiny.world import Scene
from instruments.llava.attention import register
from instruments.llava.lessons import Drawn, Lesson, draw
from instruments.llava.micro import Micro
from instruments.llava.naming import naming_loss
from instruments.llava.pointing import WATCHED, pointing_loss
from instruments.llava.stage import Check, Curve, run_stage
from instruments.llava.start import start_matching
from instruments.llava.vision import hidden_states

_NAMING = 0.3
_HELD_OUT = 64


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
