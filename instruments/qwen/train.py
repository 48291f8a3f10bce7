"""`python -m instruments.qwen.train --out DIR`: the second instrument from nothing; run it again after a kill.

The way of the first one, where anatomy allows. The tower learns from dense labels alone: without [CLS] there is nothing
to hold against captions. Nor has it absolute positions, so tokens cannot know where they are before the decoder tells
them by M-RoPE; a probe on its second layer asks for that, in all lessons but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.tiny import world
from foveate.tiny.branches import answer_states, pack
from foveate.tiny.inputs import to_pixels
from foveate.tiny.vocabulary import GRID, WORDS
from foveate.tiny.world import Scene
from instruments.llava.answers import validation
from instruments.llava.attention import register
from instruments.llava.batches import Batch, whole, windows
from instruments.llava.course import Course, command
from instruments.llava.export import write_curves
from instruments.llava.labels import blocks
from instruments.llava.lessons import Drawn, Lesson, draw
from instruments.llava.micro import Micro
from instruments.llava.naming import naming_loss
from instruments.llava.pointing import WATCHED, pointing_loss
from instruments.llava.stage import Curve, Stage, run_stage
from instruments.llava.start import encode_positions, start_matching, waves
from instruments.llava.vision import Heads, probe_losses
from instruments.qwen.anatomy import FRAME, MERGE, SIDE, build_qwen
from instruments.qwen.export import export
from instruments.qwen.recipe import PLACING, RECIPE
from instruments.qwen.tower import merged, start_local, tower_states

WINDOWS_ORIGIN, IMAGES_ORIGIN = 110_000_000, 120_000_000
_NAMING = 0.3
_PLACED = 1
"""Number of the decoder layer after which image tokens should know where they are."""
_BLOCKS = (SIDE, MERGE, SIDE, MERGE)
_PLACES = encode_positions(waves(4, 6.0, 48.0)).view(*_BLOCKS, -1).mean((1, 3)).flatten(0, 1)


def train(out: Path, recipe: Course = RECIPE, processes: int = 2, device: str = "cpu") -> Path:
    """Run every stage that is not done yet and return the checkpoint's folder, `out/checkpoint`."""
    model, heads, place = new_qwen(recipe.seed, device)
    visual = model.model.visual
    tower = {n: p for n, p in visual.named_parameters() if not n.startswith("merger.mlp")}
    named = {f"visual.{n}": p for n, p in tower.items()} | {f"heads.{n}": p for n, p in heads.named_parameters()}
    curves: dict[str, Curve] = {}
    for stage, origin in ((recipe.windows, WINDOWS_ORIGIN), (recipe.images, IMAGES_ORIGIN)):
        curves[stage.name] = run_stage(stage, named, _look(visual, heads, stage, origin), out, None, processes)
        write_curves(curves, out)
    for parameter in tower.values():
        parameter.requires_grad_(False)
    for lesson in recipe.lessons:
        curves[lesson.stage.name] = run_stage(
            lesson.stage,
            parameters(model, place, lesson),
            _micro(model, place, lesson),
            out,
            validation(model, lambda scenes: see(model, scenes), FRAME) if lesson.answer else None,
            processes,
        )
        write_curves(curves, out)
    export(model.cpu(), curves, out / "checkpoint")
    return out / "checkpoint"


def new_qwen(seed: int, device: str = "cpu") -> tuple[Any, Heads, nn.Linear]:
    """The model before the first step and the probes of training, in bfloat16."""
    torch.manual_seed(seed)
    model = build_qwen(register())
    start_local(model.model.visual)
    start_matching(model.model.language_model)
    place = nn.Linear(model.config.get_text_config().hidden_size, _PLACES.shape[1])
    return model.bfloat16().to(device), Heads().bfloat16().to(device), place.bfloat16().to(device)


def parameters(model: Any, place: nn.Linear, lesson: Lesson) -> dict[str, nn.Parameter]:
    """What a lesson trains: merger and words to name; the decoder too to answer."""
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not lesson.answer:
        return {n: p for n, p in named.items() if "merger.mlp" in n or "embed_tokens" in n}
    return named | {f"place.{n}": p for n, p in place.named_parameters()}


def _look(visual: Any, heads: Heads, stage: Stage, origin: int) -> Micro:
    """A step of the tower: windows in the first stage, whole pictures in the second."""

    def draw_crops(step: int, number: int) -> tuple[int, Batch]:
        rng = np.random.Generator(np.random.PCG64([origin, step, number]))
        scenes = [world.scene("train", i) for i in stage.numbers(step, number, origin)]
        return step * stage.micro + number, windows(scenes, rng) if origin == WINDOWS_ORIGIN else whole(scenes)

    def learn(drawn: tuple[int, Batch]) -> dict[str, float]:
        torch.manual_seed(drawn[0])
        batch = drawn[1].to(visual.device)
        states = tower_states(visual, to_pixels(batch.pixels))
        losses, figures, _ = probe_losses(heads, batch, states, visual.merger.ln_q)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        return {**{n: float(loss.detach()) for n, loss in losses.items()}, **figures}

    return Micro(draw_crops, learn)


def see(model: Any, scenes: Sequence[Scene]) -> Tensor:
    """Visual tokens as the decoder receives them, B x 144 x D; the merger alone has gradients."""
    visual = model.model.visual
    with torch.no_grad():
        pixels = to_pixels(np.stack([np.asarray(s.image) for s in scenes]))
        last = tower_states(visual, pixels)[-1]
    return merged(visual, last, GRID)


def _micro(model: Any, place: nn.Linear, lesson: Lesson) -> Micro:
    decoder = model.model.language_model
    words = decoder.embed_tokens.weight
    taught = bool(lesson.pointing)

    def draw_blocks(step: int, number: int) -> Drawn:
        drawn = draw(lesson, step, number, FRAME)
        return replace(drawn, labels=[blocks(each, MERGE) for each in drawn.labels])

    def learn(drawn: Drawn) -> dict[str, float]:
        kept, asked = drawn.kept.to(words.device), drawn.asked
        image = see(model, drawn.scenes)
        naming = naming_loss(image, words, drawn.labels, kept, placed=False)
        if not lesson.answer:
            naming.backward()
            return {"naming": float(naming.detach())}
        branches = pack(asked, FRAME)
        watch = dict.fromkeys(WATCHED, image) if taught else None
        placed: list[Tensor] = []
        hook = decoder.layers[_PLACED].register_forward_hook(lambda module, args, output: placed.append(output))
        try:
            states, targets = answer_states(model, image, kept, branches, watch, FRAME)
        finally:
            hook.remove()
        scores = model.lm_head(states).float()
        loss = F.cross_entropy(scores, targets)
        total = loss + _NAMING * naming
        figures: dict[str, float] = {}
        if watch is not None:
            pointing = pointing_loss(watch, branches, asked, kept, lesson.spelling, bool(lesson.favoured), FRAME)
            placing = placing_loss(placed[0], place)
            total = total + lesson.pointing * sum(pointing.values()) + PLACING[lesson.stage.name] * placing
            figures |= {f"point_{name}": float(value.detach()) for name, value in pointing.items()}
            figures["placing"] = float(placing.detach())
        total.backward()
        right = (scores.argmax(-1) == targets)[targets != WORDS.index("</s>")].float().mean()
        return {**figures, "loss": float(loss.detach()), "naming": float(naming.detach()), "right": float(right)}

    return Micro(draw_blocks, learn)


def placing_loss(states_BLD: Tensor, place: nn.Linear) -> Tensor:
    """How badly a linear probe tells rows and columns from the image tokens' states; 0.5 is knowing nothing."""
    head = len(FRAME.head)
    image = states_BLD[:, head : head + FRAME.tokens]
    told = place(F.rms_norm(image, image.shape[-1:])).float()
    return F.mse_loss(told, _PLACES.to(told.device).expand_as(told))


if __name__ == "__main__":
    command("instruments.qwen.train", __doc__, train, RECIPE)
