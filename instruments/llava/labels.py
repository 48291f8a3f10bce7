"""What each patch of a scene shows: the dense labels that teach the vision tower."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.tiny.layout import Box
from foveate.tiny.vocabulary import COLORS, GRID, KINDS, LETTERS, PATCH, PATTERNS, SIZE
from foveate.tiny.world import Scene, patches

NONE_KIND, NONE_COLOR, NONE_LETTER = len(KINDS), len(COLORS), len(LETTERS)
IGNORE = -100
_SHOWN, _TOUCHED = 0.12, 0.01
_LETTER_SHOWN, _LETTER_TOUCHED = 0.3, 0.06
_COLOR = list(COLORS)
_SUB = 4
_TEXTURE_SHOWN = 0.5


@dataclass(frozen=True)
class Labels:
    """Per patch of the 24 x 24 grid; IGNORE where a patch shows too little to say.

    kind, color: index, or the NONE value for background and distractors. letters: for each of a plate's three places
    the letter seen in this patch, or NONE_LETTER. mask: 4 x 4 coverage. offset: to the thing's centre in patches, and
    the logarithm of its size. owner: index of the thing, or -1. cover: things x grid, share of each patch.
    pattern: of the distractor that fills most of the patch, IGNORE elsewhere; tints: half for each of its two colours.
    """

    kind: NDArray[np.int64]
    color: NDArray[np.int64]
    letters: NDArray[np.int64]
    mask: NDArray[np.float32]
    offset: NDArray[np.float32]
    owner: NDArray[np.int64]
    cover: NDArray[np.float32]
    pattern: NDArray[np.int64]
    tints: NDArray[np.float32]


def label(scene: Scene) -> Labels:
    """All labels of one scene."""
    things = scene.layout.things
    full = np.zeros((SIZE, SIZE), np.float32)
    cover = np.zeros((len(things), GRID, GRID), np.float32)
    for i, (thing, alpha) in enumerate(zip(things, scene.alphas, strict=True)):
        own = np.zeros((SIZE, SIZE), np.float32)
        own[thing.y : thing.y + thing.height, thing.x : thing.x + thing.width] = alpha / np.float32(255)
        full += own
        cover[i] = own.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3))
    most, owner = cover.max(0), cover.argmax(0)
    shown = most >= _SHOWN
    doubtful = (most > _TOUCHED) & ~shown
    kind = np.where(shown, np.array([KINDS.index(t.kind) for t in things])[owner], NONE_KIND)
    color = np.where(shown, np.array([_COLOR.index(t.color) for t in things])[owner], NONE_COLOR)
    kind[doubtful] = color[doubtful] = IGNORE
    letters = np.full((GRID, GRID, 3), NONE_LETTER, np.int64)
    for thing in things:
        for place, (letter, box) in enumerate(zip(thing.code, thing.letter_boxes, strict=True)):
            share = _overlap(box)
            letters[..., place][share >= _LETTER_TOUCHED] = IGNORE
            letters[..., place][share >= _LETTER_SHOWN] = LETTERS.index(letter)
    sub = PATCH // _SUB
    fine = full.reshape(GRID, _SUB, sub, GRID, _SUB, sub).mean((2, 5))
    mask = fine.transpose(0, 2, 1, 3).reshape(GRID, GRID, _SUB**2)
    centers = np.array([(*t.center, math.log(max(t.width, t.height) / 24)) for t in things], np.float32)
    y, x = np.mgrid[:GRID, :GRID].astype(np.float32) + 0.5
    offset = centers[owner] / np.array([PATCH, PATCH, 1], np.float32)
    offset[..., 0] -= x
    offset[..., 1] -= y
    pattern, tints = _textures(scene)
    return Labels(kind, color, letters, mask, offset, np.where(shown, owner, -1), cover, pattern, tints)


def blocks(labels: Labels, size: int) -> Labels:
    """Labels of blocks of size x size patches: those of the patch that shows most of a thing.

    A letter counts wherever in the block it is seen. Centres stay those of the patch.
    """
    side = GRID // size

    def split(each: NDArray[Any]) -> NDArray[Any]:
        """Rows x columns x patches of a block x whatever there is of each."""
        parts = each.reshape(side, size, side, size, *each.shape[2:])
        return np.moveaxis(parts, 2, 1).reshape(side, side, size * size, *each.shape[2:])

    def take(each: NDArray[Any]) -> NDArray[Any]:
        """What the fullest patch of each block has."""
        picked: NDArray[Any] = split(each)[rows, columns, best]
        return picked

    best = split(labels.cover.max(0)).argmax(2)
    rows, columns = np.indices((side, side))
    letters = split(labels.letters)
    seen = np.where(letters < NONE_LETTER, letters, IGNORE).max(2)
    none = (letters == NONE_LETTER).all(2)
    cover = np.stack([split(each).mean(2) for each in labels.cover])
    pattern = split(labels.pattern)
    textured = pattern.argmax(2)
    return Labels(
        kind=take(labels.kind),
        color=take(labels.color),
        letters=np.where(none, NONE_LETTER, seen),
        mask=take(labels.mask),
        offset=take(labels.offset),
        owner=take(labels.owner),
        cover=cover,
        pattern=pattern.max(2),
        tints=split(labels.tints)[rows, columns, textured],
    )


def _textures(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Distractors are told apart too: a tower that calls them all background makes every choice by diversity easy."""
    pattern = np.full((GRID, GRID), IGNORE, np.int64)
    tints = np.zeros((GRID, GRID, len(COLORS)), np.float32)
    for distractor in scene.layout.distractors:
        filled = patches([distractor.box], _TEXTURE_SHOWN).reshape(GRID, GRID)
        pattern[filled] = PATTERNS.index(distractor.pattern)
        tints[filled] = 0
        for color in distractor.colors:
            tints[filled, _COLOR.index(color)] = 0.5
    return pattern, tints


def _overlap(box: Box) -> NDArray[np.float64]:
    """The share of `box` that falls into each patch."""
    edges = np.arange(GRID) * PATCH
    wide = np.clip(np.minimum(edges + PATCH, box[2]) - np.maximum(edges, box[0]), 0, None)
    high = np.clip(np.minimum(edges + PATCH, box[3]) - np.maximum(edges, box[1]), 0, None)
    share: NDArray[np.float64] = high[:, None] * wide[None, :] / ((box[2] - box[0]) * (box[3] - box[1]))
    return share
