"""Alpha masks of shapes and letters, drawn from geometry and 5x7 bitmaps so that no font file can change a pixel."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

BITMAPS = {
    "a": "01110 10001 10001 11111 10001 10001 10001",
    "b": "11110 10001 10001 11110 10001 10001 11110",
    "e": "11111 10000 10000 11110 10000 10000 11111",
    "h": "10001 10001 10001 11111 10001 10001 10001",
    "k": "10001 10010 10100 11000 10100 10010 10001",
    "l": "10000 10000 10000 10000 10000 10000 11111",
    "t": "11111 00100 00100 00100 00100 00100 00100",
    "u": "10001 10001 10001 10001 10001 10001 01110",
    "x": "10001 10001 01010 00100 01010 10001 10001",
    "z": "11111 00001 00010 00100 01000 10000 11111",
}
_OVERSAMPLE = 4


@lru_cache(maxsize=4096)
def glyph(kind: str, width: int, height: int) -> NDArray[np.uint8]:
    """Coverage of `kind` in a box, `height` x `width`, 0 to 255. The array is cached: do not write into it."""
    w, h = width * _OVERSAMPLE, height * _OVERSAMPLE
    canvas = Image.new("L", (w, h), 0)
    draw = ImageDraw.Draw(canvas)
    if kind in BITMAPS:
        _bitmap(draw, BITMAPS[kind], w, h)
    else:
        _SHAPES[kind](draw, w)
    alpha = np.asarray(canvas.reduce(_OVERSAMPLE), dtype=np.uint8)
    alpha.setflags(write=False)
    return alpha


def _bitmap(draw: ImageDraw.ImageDraw, bitmap: str, w: int, h: int) -> None:
    rows = bitmap.split()
    for y, row in enumerate(rows):
        for x, bit in enumerate(row):
            if bit == "1":
                box = (x * w // 5, y * h // 7, (x + 1) * w // 5 - 1, (y + 1) * h // 7 - 1)
                draw.rectangle(box, fill=255)


def _circle(draw: ImageDraw.ImageDraw, n: int) -> None:
    draw.ellipse((0, 0, n - 1, n - 1), fill=255)


def _square(draw: ImageDraw.ImageDraw, n: int) -> None:
    m = n // 16
    draw.rectangle((m, m, n - 1 - m, n - 1 - m), fill=255)


def _triangle(draw: ImageDraw.ImageDraw, n: int) -> None:
    draw.polygon([(n / 2, 0), (n, n * 0.95), (0, n * 0.95)], fill=255)


def _diamond(draw: ImageDraw.ImageDraw, n: int) -> None:
    draw.polygon([(n / 2, 0), (n * 0.9, n / 2), (n / 2, n), (n * 0.1, n / 2)], fill=255)


def _star(draw: ImageDraw.ImageDraw, n: int) -> None:
    points = []
    for i in range(10):
        radius = n / 2 if i % 2 == 0 else n * 0.21
        angle = -math.pi / 2 + i * math.pi / 5
        points.append((round(n / 2 + radius * math.cos(angle), 3), round(n / 2 + radius * math.sin(angle), 3)))
    draw.polygon(points, fill=255)


def _cross(draw: ImageDraw.ImageDraw, n: int) -> None:
    low, high = n * 0.34, n * 0.66
    draw.rectangle((low, 0, high, n), fill=255)
    draw.rectangle((0, low, n, high), fill=255)


def _ring(draw: ImageDraw.ImageDraw, n: int) -> None:
    _circle(draw, n)
    draw.ellipse((n * 0.24, n * 0.24, n * 0.76, n * 0.76), fill=0)


def _moon(draw: ImageDraw.ImageDraw, n: int) -> None:
    _circle(draw, n)
    draw.ellipse((n * 0.38, -n * 0.08, n * 1.22, n * 0.84), fill=0)


_SHAPES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}
