"""Training batches for the vision tower: small windows around things first, whole images after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.tiny.vocabulary import COLORS, GRID, PATCH
from foveate.tiny.world import Scene
from instruments.llava.labels import IGNORE, Labels, label

WINDOW = 8
"""Side of a window in patches: it holds any thing whole, and 65 tokens cost a ninth of 577."""
_VISIBLE = 0.75


@dataclass(frozen=True)
class Batch:
    """B crops of N patches: pixels B x H x W x 3 (uint8), `where` B x N patch numbers in the grid, labels B x N."""

    pixels: Tensor
    where: Tensor
    kind: Tensor
    color: Tensor
    letters: Tensor
    mask: Tensor
    offset: Tensor
    pattern: Tensor
    tints: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same, there."""
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def whole(scenes: Sequence[Scene]) -> Batch:
    """Each scene as one crop."""
    everything = np.s_[:GRID, :GRID]
    return _stack([_crop(scene, label(scene), everything, None) for scene in scenes])


def windows(scenes: Sequence[Scene], rng: np.random.Generator, most: int = 6) -> Batch:
    """Up to `most` windows a scene, each near a thing or, where things are few, a distractor.

    Things that a border cuts are not to be named.
    """
    crops = []
    for scene in scenes:
        labels = label(scene)
        items = (*scene.layout.things, *scene.layout.distractors)
        first = len(scene.layout.things)
        order = [*rng.permutation(first), *(first + rng.permutation(len(items) - first))]
        for i in order[:most]:
            center = ((items[i].box[0] + items[i].box[2]) / 2, (items[i].box[1] + items[i].box[3]) / 2)
            x, y = (c / PATCH - WINDOW / 2 + rng.uniform(-2, 2) for c in center)
            left, top = (int(min(max(round(v), 0), GRID - WINDOW)) for v in (x, y))
            region = np.s_[top : top + WINDOW, left : left + WINDOW]
            inside = labels.cover[(slice(None), *region)].sum((1, 2)) > _VISIBLE * labels.cover.sum((1, 2))
            crops.append(_crop(scene, labels, region, inside))
    return _stack(crops)


def _crop(
    scene: Scene, labels: Labels, region: tuple[slice, slice], inside: NDArray[np.bool_] | None
) -> tuple[NDArray[np.generic], ...]:
    rows, columns = (slice((s.start or 0) * PATCH, s.stop * PATCH) for s in region)
    kind = labels.kind[region].copy()
    if inside is not None:
        owner = labels.owner[region]
        kind[(owner >= 0) & ~inside[owner]] = IGNORE
    number = np.arange(GRID * GRID).reshape(GRID, GRID)[region]
    return (
        np.asarray(scene.image)[rows, columns],
        number.ravel(),
        kind.ravel(),
        labels.color[region].ravel(),
        labels.letters[region].reshape(-1, 3),
        labels.mask[region].reshape(-1, 16),
        labels.offset[region].reshape(-1, 3),
        labels.pattern[region].ravel(),
        labels.tints[region].reshape(-1, len(COLORS)),
    )


def _stack(crops: list[tuple[NDArray[np.generic], ...]]) -> Batch:
    return Batch(*(torch.from_numpy(np.stack(parts)) for parts in zip(*crops, strict=True)))
