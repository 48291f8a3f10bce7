"""Where the tokens of an image lie in its picture, whatever the processor did to it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from foveate.selection import Block, Grid

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the picture; may reach beyond it where a processor pads."""


@dataclass(frozen=True)
class Placed:
    """A block of tokens and the part of the picture that it sees."""

    block: Block
    box: Box


def place(picture: Image.Image, grid: Grid, image_processor: Any = None) -> list[Placed]:
    """Where the blocks of one image lie in it, those left out that another block shows better.

    One block sees the picture, or its centre where the processor crops. A thumbnail gives way to the tiled block that
    ends its rows with newlines. Several equal blocks are the tiles of one picture and its thumbnail, which is last; but
    where a processor pans and scans, the first sees the whole, and nobody knows what the others see.
    """
    whole: Box = (0.0, 0.0, float(picture.width), float(picture.height))
    for block in grid:
        if block.newline:
            return [Placed(block, whole)]
    if len(grid) == 1 or getattr(image_processor, "do_pan_and_scan", False):
        return [Placed(grid[0], seen_box(picture.size, image_processor))]
    tiles = grid[:-1]
    columns = _tile_columns(len(tiles), picture.width / picture.height)
    w, h = picture.width / columns, picture.height / (len(tiles) // columns)
    return [
        Placed(b, (i % columns * w, i // columns * h, i % columns * w + w, i // columns * h + h))
        for i, b in enumerate(tiles)
    ]


def joined(parts: Iterable[tuple[Grid, Iterable[int]]]) -> tuple[Grid, list[int]]:
    """Blocks and kept tokens of the tiles that a model takes a picture apart into, as that picture's own."""
    grid: list[Block] = []
    kept: list[int] = []
    start = 0
    for blocks, mine in parts:
        grid += [replace(b, start=b.start + start) for b in blocks]
        kept += [k + start for k in mine]
        start += sum(b.size for b in blocks)
    return tuple(grid), kept


def seen_box(size: tuple[int, int], image_processor: Any = None) -> Box:
    """The part of a picture of this size (width, height) that reaches the model as one block."""
    width, height = float(size[0]), float(size[1])
    if image_processor is None or getattr(image_processor, "image_grid_pinpoints", None):
        return 0.0, 0.0, width, height
    w, h = width, height
    # Many processors pad, most of them a batch to its largest picture; these a picture to a square around it.
    if getattr(image_processor, "do_pad", False) and hasattr(image_processor, "pad_to_square"):
        w = h = max(width, height)
    crop = _sizes(getattr(image_processor, "crop_size", None))
    if getattr(image_processor, "do_center_crop", False) and {"height", "width"} <= crop.keys():
        scale_x = scale_y = 1.0
        if getattr(image_processor, "do_resize", False):
            resized = _sizes(getattr(image_processor, "size", None))
            if "shortest_edge" in resized:
                scale_x = scale_y = resized["shortest_edge"] / min(w, h)
            elif {"height", "width"} <= resized.keys():
                scale_x, scale_y = resized["width"] / w, resized["height"] / h
        w, h = crop["width"] / scale_x, crop["height"] / scale_y
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def _tile_columns(tiles: int, aspect: float) -> int:
    """Columns of the tiling whose shape is nearest to the picture's: tilers choose it the same way."""
    divisors = [c for c in range(1, tiles + 1) if tiles % c == 0]
    return min(divisors, key=lambda c: abs(math.log(c * c / tiles / aspect)))


def _sizes(value: Any) -> Mapping[str, int]:
    """A processor's size, whether it holds a dict or transformers' SizeDict."""
    if value is None:
        return {}
    items = value if isinstance(value, Mapping) else vars(value)
    return {k: int(v) for k, v in items.items() if isinstance(v, int | float)}
