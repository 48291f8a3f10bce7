"""The synthetic world: `scene(split, index)` is the same image and the same questions everywhere, forever."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foveate.errors import FoveateError
from foveate.tiny.layout import Box, Layout, lay_out
from foveate.tiny.paint import paint
from foveate.tiny.questions import Question, ask
from foveate.tiny.seeds import SPLITS, generator
from foveate.tiny.vocabulary import EVERY_TIER, GRID, PATCH, TIERS

__all__ = ["SPLITS", "Question", "Scene", "fingerprint", "patches", "scene"]

_SHARES = (0.20, 0.30, 0.30, 0.20)


@dataclass(frozen=True)
class Scene:
    """One image with its questions; drawn when first looked at."""

    split: str
    index: int
    layout: Layout
    limit: int

    @property
    def tier(self) -> str:
        """One of `vocabulary.EVERY_TIER`."""
        return self.layout.tier

    @cached_property
    def _painted(self) -> tuple[Image.Image, list[NDArray[np.uint8]]]:
        return paint(generator(self.split, self.index, "pixels"), self.layout)

    @property
    def image(self) -> Image.Image:
        """RGB, 192 x 192."""
        return self._painted[0]

    @property
    def alphas(self) -> list[NDArray[np.uint8]]:
        """For each thing, how much of each pixel of its box it covers, 0 to 255."""
        return self._painted[1]

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """At most `limit` questions, the kinds taken in turn."""
        return ask(self.layout, generator(self.split, self.index, "questions"), self.limit)


def scene(split: str, index: int, questions: int = 8, tier: str | None = None) -> Scene:
    """The scene of that number.

    Args:
        split: `train`, `val` or `test`; no two share a seed.
        index: 0 or more; each split goes on without end.
        questions: how many to ask at most. A simple scene may have fewer.
        tier: force one of `simple`, `medium`, `crowded`, `cluttered`; by default the seed decides (20, 30, 30, 20%).
            Or `textured`, which no seed draws.

    Raises:
        FoveateError: for an unknown split or tier or a negative index.
    """
    if tier is not None and tier not in EVERY_TIER:
        raise FoveateError(f"no tier {tier!r}; there are {', '.join(EVERY_TIER)}")
    rng = generator(split, index, "layout")
    drawn = str(rng.choice(TIERS, p=_SHARES))
    return Scene(split, index, lay_out(rng, tier or drawn), questions)


def patches(boxes: tuple[Box, ...] | list[Box], share: float = 0.12) -> NDArray[np.bool_]:
    """Which of the 24 x 24 patches a set of boxes covers by at least `share`, as a flat mask of 576."""
    mask = np.zeros((GRID, GRID), dtype=bool)
    edges = np.arange(GRID) * PATCH
    for x0, y0, x1, y1 in boxes:
        wide = np.clip(np.minimum(edges + PATCH, x1) - np.maximum(edges, x0), 0, None)
        high = np.clip(np.minimum(edges + PATCH, y1) - np.maximum(edges, y0), 0, None)
        mask |= high[:, None] * wide[None, :] >= share * PATCH * PATCH
    return mask.ravel()


def fingerprint(split: str = "test", count: int = 24, tier: str | None = None) -> str:
    """SHA-256 over pixels, questions, answers and boxes of the first `count` scenes: the world's identity.

    With a tier, that of its scenes.
    """
    digest = hashlib.sha256()
    for index in range(count):
        shown = scene(split, index, tier=tier)
        digest.update(shown.image.tobytes())
        digest.update(repr(shown.questions).encode())
    return digest.hexdigest()
