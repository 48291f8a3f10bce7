"""From a layout to pixels. Only integer noise, basic arithmetic and Pillow's drawing, so that a hash can pin them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from foveate.tiny.glyphs import glyph
from foveate.tiny.layout import Distractor, Layout, Thing
from foveate.tiny.vocabulary import COLORS, DARK, PATCH, PLATE, SIZE, UNSEEN

_WAVES = {"simple": 5, "medium": 14, "crowded": 22, "cluttered": 14}
_STROKES = {"simple": (0, 2), "medium": (2, 6), "crowded": (6, 14), "cluttered": (2, 6)}
Pixels = NDArray[np.int64]


def paint(rng: np.random.Generator, layout: Layout) -> tuple[Image.Image, list[NDArray[np.uint8]]]:
    """The RGB image (192 x 192) and, for each thing, its coverage of its own box, 0 to 255."""
    pixels = _background(rng, UNSEEN.get(layout.tier, layout.tier))
    if layout.tier == "textured":
        # Drawn from the same stream: what comes after is the plain scene's layout with other shades and outlines.
        pixels += _gratings(rng)
    for distractor in layout.distractors:
        _blend(pixels, distractor.x, distractor.y, *_texture(rng, distractor))
    alphas = []
    for thing in layout.things:
        alpha = np.full((thing.height, thing.width), 255, np.uint8) if thing.kind == PLATE else _shape(thing)
        _blend(pixels, thing.x, thing.y, _shade(rng, thing.color), alpha)
        for letter, box in zip(thing.code, thing.letter_boxes, strict=True):
            ink = np.array([245, 245, 245] if thing.color in DARK else [15, 15, 15])
            _blend(pixels, box[0], box[1], ink, glyph(letter, box[2] - box[0], box[3] - box[1]))
        alphas.append(alpha)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB"), alphas


def _shape(thing: Thing) -> NDArray[np.uint8]:
    return glyph(thing.kind, thing.width, thing.height)


def _shade(rng: np.random.Generator, color: str) -> Pixels:
    return np.array(COLORS[color]) + rng.integers(-12, 13, size=3)


def _blend(pixels: Pixels, x: int, y: int, color: Pixels, alpha: NDArray[np.uint8]) -> None:
    """Lay `color` (three numbers, or one per pixel) over `pixels`, in place."""
    height, width = alpha.shape
    region = pixels[y : y + height, x : x + width]
    a = alpha.astype(np.int64)[..., None]
    region[:] = (region * (255 - a) + color * a) // 255


def _background(rng: np.random.Generator, tier: str) -> Pixels:
    """A grey of slowly varying tint with grey strokes and blobs and per-pixel noise."""
    base = rng.integers(60, 146) + rng.integers(-10, 11, size=3)
    strength = _WAVES[tier]
    knots = rng.integers(-strength, strength + 1, size=(7, 7, 1))
    knots = knots + rng.integers(-strength, strength + 1, size=(7, 7, 3)) // 2
    pixels = base + _upsample(knots)
    canvas = Image.new("L", (SIZE, SIZE), 128)
    draw = ImageDraw.Draw(canvas)
    low, high = _STROKES[tier]
    for _ in range(int(rng.integers(low, high + 1))):
        x0, y0, x1, y1 = (int(v) for v in rng.integers(-20, SIZE + 20, size=4))
        tone = int(128 + rng.integers(-48, 49))
        if rng.random() < 0.6:
            draw.line((x0, y0, x1, y1), fill=tone, width=int(rng.integers(1, 5)))
        else:
            box = (x0, y0, x0 + int(rng.integers(8, 40)), y0 + int(rng.integers(8, 40)))
            (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=tone)
    pixels += np.asarray(canvas, dtype=np.int64)[..., None] - 128
    grain = int(rng.integers(2, 10))
    return pixels + rng.integers(-grain, grain + 1, size=(SIZE, SIZE, 1))


def _gratings(rng: np.random.Generator) -> Pixels:
    """What to add to a ground for texture: in half of all patches a coloured grating of its own pitch and direction.

    Patches, because what differs from token to token is what lures a choice by diversity.
    """
    cells = (SIZE // PATCH, SIZE // PATCH)
    steps = rng.integers(-70, 71, size=(*cells, 2))  # a turn of the grating is 256 steps
    starts = rng.integers(0, 256, size=cells)
    colors = rng.integers(-80, 81, size=(*cells, 3)) * rng.integers(0, 2, size=(*cells, 1))
    y, x = np.mgrid[:SIZE, :SIZE]
    row, column = y // PATCH, x // PATCH
    turn = (steps[row, column, 0] * x + steps[row, column, 1] * y + starts[row, column]) % 256
    wave = np.abs(turn - 128) - 64
    return np.asarray(wave[..., None] * colors[row, column] // 64, dtype=np.int64)


def _upsample(knots: Pixels) -> Pixels:
    """Linear interpolation of a 7 x 7 grid to the image, in integers: 6 cells of 32 pixels."""
    cell = SIZE // 6
    t = np.arange(SIZE) % cell
    i = np.arange(SIZE) // cell
    rows = (knots[i] * (cell - t)[:, None, None] + knots[i + 1] * t[:, None, None]) // cell
    return np.asarray(
        (rows[:, i] * (cell - t)[None, :, None] + rows[:, i + 1] * t[None, :, None]) // cell, dtype=np.int64
    )


def _texture(rng: np.random.Generator, distractor: Distractor) -> tuple[Pixels, NDArray[np.uint8]]:
    """Two colours in a pattern, cut out by a random polygon."""
    height, width = distractor.height, distractor.width
    y, x = np.mgrid[:height, :width]
    period = int(rng.integers(3, 6))
    which: NDArray[np.int64] = {
        "stripes": (x + y) // period % 2,
        "bars": x // period % 2,
        "checks": (x // period + y // period) % 2,
        "dots": ((x % (2 * period) < period) & (y % (2 * period) < period)).astype(np.int64),
    }[distractor.pattern]
    shades = np.stack([_shade(rng, c) for c in distractor.colors])
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    jitter = rng.integers(0, 1 + min(width, height) // 3, size=(4, 2)) * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    canvas = Image.new("L", (width, height), 0)
    points = [(int(cx + jx), int(cy + jy)) for (cx, cy), (jx, jy) in zip(corners, jitter, strict=True)]
    ImageDraw.Draw(canvas).polygon(points, fill=255)
    return shades[which], np.asarray(canvas, dtype=np.uint8)
