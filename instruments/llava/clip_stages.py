"""The two stages that make the CLIP: windows (patches only), then whole images (patches and [CLS])."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import CLIPModel

from foveate.tiny import world
from foveate.tiny.anatomy import build_clip
from foveate.tiny.world import Scene
from instruments.llava.attention import register
from instruments.llava.batches import Batch, whole, windows
from instruments.llava.micro import Micro
from instruments.llava.stage import Curve, Stage, run_stage
from instruments.llava.start import start_local
from instruments.llava.vision import Heads, forward_batch, image_losses, patch_losses

WINDOWS_ORIGIN, IMAGES_ORIGIN = 0, 10_000_000


def new_clip(seed: int, device: str = "cpu") -> tuple[Any, Heads]:
    """A CLIP and its training heads before the first step, in bfloat16."""
    torch.manual_seed(seed)
    clip = build_clip(register())
    start_local(clip)
    return clip.bfloat16().to(device), Heads().bfloat16().to(device)


def parameters(clip: CLIPModel, heads: Heads) -> dict[str, nn.Parameter]:
    """All that the CLIP stages train, by name."""
    named = {f"clip.{n}": p for n, p in clip.named_parameters()}
    return named | {f"heads.{n}": p for n, p in heads.named_parameters()}


def train_clip(
    clip: CLIPModel, heads: Heads, stages: tuple[Stage, Stage], region: float, folder: Path, processes: int
) -> dict[str, Curve]:
    """Both stages, each resumed if it was begun; the weights are changed in place."""
    small, large = stages
    named = parameters(clip, heads)
    curves = {small.name: run_stage(small, named, _windows(clip, heads, small, region), folder, None, processes)}
    curves[large.name] = run_stage(large, named, _images(clip, heads, large, region), folder, None, processes)
    return curves


@dataclass(frozen=True)
class _Drawn:
    place: int
    rng: np.random.Generator
    scenes: list[Scene]
    batch: Batch


def _windows(clip: CLIPModel, heads: Heads, stage: Stage, region: float) -> Micro:
    def learn(drawn: _Drawn) -> dict[str, float]:
        torch.manual_seed(drawn.place)
        batch = drawn.batch.to(clip.device)
        losses, figures = patch_losses(clip, heads, batch, forward_batch(clip, batch), drawn.rng, region)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        return {**{n: float(loss.detach()) for n, loss in losses.items()}, **figures}

    return Micro(_drawing(stage, WINDOWS_ORIGIN, windows), learn)


def _images(clip: CLIPModel, heads: Heads, stage: Stage, region: float) -> Micro:
    def learn(drawn: _Drawn) -> dict[str, float]:
        torch.manual_seed(drawn.place)
        batch = drawn.batch.to(clip.device)
        states = forward_batch(clip, batch)
        losses, figures = patch_losses(clip, heads, batch, states, drawn.rng, region)
        losses |= image_losses(clip, drawn.scenes, states, drawn.rng)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        return {**{n: float(loss.detach()) for n, loss in losses.items()}, **figures}

    return Micro(_drawing(stage, IMAGES_ORIGIN, lambda scenes, rng: whole(scenes)), learn)


def _drawing(
    stage: Stage, origin: int, crop: Callable[[Sequence[Scene], np.random.Generator], Batch]
) -> Callable[[int, int], _Drawn]:
    """What draws a micro-batch. Its stream depends on the stage and the place in it only: a resumed run draws what it
    would have."""

    def draw(step: int, number: int) -> _Drawn:
        place = step * stage.micro + number
        rng = np.random.Generator(np.random.PCG64([len(stage.name), place]))
        scenes = [world.scene("train", i) for i in stage.numbers(step, number, origin)]
        return _Drawn(place, rng, scenes, crop(scenes, rng))

    return draw
