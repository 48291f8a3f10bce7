"""Which parts of a picture stayed: dropped cells dimmed, one panel a cut, one row an image. Pillow alone."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foveate import files
from foveate.cut import Place
from foveate.errors import FoveateError
from foveate.hf.report import ImageReport, Report
from foveate.selection import Block, Grid

PANEL = 336
"""Longest side of a panel in pixels."""
MAX_FRAMES = 8

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the picture; may reach beyond it where a processor pads."""
Picture = Image.Image | Sequence[Image.Image]
"""An image, or the frames of a video."""

_PAGE, _INK, _FAINT, _LINE = (255, 255, 255), (24, 28, 36), (112, 120, 134), (255, 255, 255)
_GAP, _MARGIN = 16, 24
_MIN_SLOT = PANEL // 2  # a narrow picture still has room for its caption


@dataclass(frozen=True)
class Panel:
    """A picture in a sheet, with a line of text above it and a fainter one below that."""

    image: Image.Image
    title: str
    subtitle: str = ""
    colour: tuple[int, int, int] = _FAINT
    """Of the subtitle."""


@dataclass(frozen=True)
class Placed:
    """A block of tokens and the part of the picture that it sees."""

    block: Block
    box: Box


def overlay(pictures: Sequence[Picture], report: Report, image_processor: Any = None, title: str = "") -> Image.Image:
    """A sheet with one row for each image of the report: the picture, then one panel for each cut.

    Args:
        pictures: what the prompt's images were, in the report's order; a sequence of frames stands for a video.
        report: from `Attachment.report`.
        image_processor: says whether the model saw the whole picture or its centre.
        title: a line above the sheet.

    Raises:
        FoveateError: not as many pictures as the report has images.
    """
    if len(pictures) != len(report.images):
        raise FoveateError(
            f"{len(pictures)} pictures for a report about {len(report.images)} images; give one for each"
        )
    rows = [row for p, r in zip(pictures, report.images, strict=True) for row in _rows(p, r, image_processor)]
    return sheet(rows, title)


def dim(picture: Image.Image, placed: Sequence[Placed], kept: Sequence[int], longest: int = PANEL) -> Image.Image:
    """The picture scaled to a panel, with every cell dimmed whose token is not in `kept`.

    Cells that stay are untouched; a thin light line marks their border. What no block sees is faded almost away.

    Args:
        picture: RGB.
        placed: blocks of one image and where they lie in it.
        kept: indices of tokens in the image's original numbering.
        longest: the longer side of the answer, in pixels.
    """
    panel = fit(picture, longest)
    scale = panel.width / picture.width
    pixels = np.asarray(panel, dtype=np.float32)
    seen = np.zeros(pixels.shape[:2], dtype=bool)
    stays = np.zeros(pixels.shape[:2], dtype=bool)
    kept_set = frozenset(kept)
    for p in placed:
        left, top, right, bottom = (v * scale for v in p.box)
        xs = _edges(left, right, p.block.columns, panel.width)
        ys = _edges(top, bottom, p.block.rows, panel.height)
        for row in range(p.block.rows):
            for column in range(p.block.columns):
                cell = np.s_[ys[row] : ys[row + 1], xs[column] : xs[column + 1]]
                seen[cell] = True
                if p.block.start + row * p.block.row_stride + column in kept_set:
                    stays[cell] = True
    grey = pixels.mean(axis=2, keepdims=True)
    # Towards grey and dark at once: a merely darker cell still reads as part of the scene.
    dropped = 0.16 * pixels + 0.10 * grey + 6.0
    unseen = 0.12 * grey + 0.88 * np.asarray(_PAGE, dtype=np.float32)
    out = np.where(stays[..., None], pixels, np.where(seen[..., None], dropped, unseen))
    border = _grow(stays) & ~stays & seen
    out[border] = 0.45 * out[border] + 0.55 * np.asarray(_LINE, dtype=np.float32)
    return Image.fromarray(out.astype(np.uint8))


def place(picture: Image.Image, grid: Grid, image_processor: Any = None) -> list[Placed]:
    """Where the blocks of one image lie in it, those left out that another block shows better.

    One block sees the picture, or its centre where the processor crops. A thumbnail gives way to the tiled block that
    ends its rows with newlines. Several equal blocks are the tiles of one picture and its thumbnail, which is last.
    """
    whole: Box = (0.0, 0.0, float(picture.width), float(picture.height))
    for block in grid:
        if block.newline:
            return [Placed(block, whole)]
    if len(grid) == 1:
        return [Placed(grid[0], seen_box(picture.size, image_processor))]
    tiles = grid[:-1]
    columns = _tile_columns(len(tiles), picture.width / picture.height)
    w, h = picture.width / columns, picture.height / (len(tiles) // columns)
    return [
        Placed(b, (i % columns * w, i // columns * h, i % columns * w + w, i // columns * h + h))
        for i, b in enumerate(tiles)
    ]


def seen_box(size: tuple[int, int], image_processor: Any = None) -> Box:
    """The part of a picture of this size (width, height) that reaches the model as one block."""
    width, height = float(size[0]), float(size[1])
    whole = (0.0, 0.0, width, height)
    if image_processor is None or getattr(image_processor, "image_grid_pinpoints", None):
        return whole
    if getattr(image_processor, "do_pad", False) and not getattr(image_processor, "do_center_crop", False):
        side = max(width, height)  # padded to a square, the picture in its middle
        return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2
    crop = _sizes(getattr(image_processor, "crop_size", None))
    if not getattr(image_processor, "do_center_crop", False) or not {"height", "width"} <= crop.keys():
        return whole
    scale_x = scale_y = 1.0
    if getattr(image_processor, "do_resize", False):
        resized = _sizes(getattr(image_processor, "size", None))
        if "shortest_edge" in resized:
            scale_x = scale_y = resized["shortest_edge"] / min(width, height)
        elif {"height", "width"} <= resized.keys():
            scale_x, scale_y = resized["width"] / width, resized["height"] / height
    w, h = crop["width"] / scale_x, crop["height"] / scale_y
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def sheet(rows: Sequence[Sequence[Panel]], title: str = "") -> Image.Image:
    """Panels in rows on a white page, text above each."""
    small, large = ImageFont.load_default(14), ImageFont.load_default(20)
    slots = [[max(p.image.width, _MIN_SLOT) for p in row] for row in rows]
    heights = [max(p.image.height for p in row) for row in rows]
    captions = [24 + 20 * any(p.subtitle for p in row) for row in rows]
    head = 40 if title else 0
    width = max(sum(s) + _GAP * (len(s) - 1) for s in slots) + 2 * _MARGIN
    height = head + sum(heights) + sum(captions) + _GAP * (len(rows) - 1) + 2 * _MARGIN
    page = Image.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((_MARGIN, _MARGIN - 4), _cut(title, large, width - 2 * _MARGIN), fill=_INK, font=large)
    y = _MARGIN + head
    for row, wide, tall, caption in zip(rows, slots, heights, captions, strict=True):
        x = _MARGIN
        for panel, slot in zip(row, wide, strict=True):
            draw.text((x, y), _cut(panel.title, small, slot), fill=_INK, font=small)
            if panel.subtitle:
                draw.text((x, y + 19), _cut(panel.subtitle, small, slot), fill=panel.colour, font=small)
            page.paste(panel.image, (x, y + caption))
            x += slot + _GAP
        y += caption + tall + _GAP
    return page


def fit(picture: Image.Image, longest: int = PANEL) -> Image.Image:
    """The picture as RGB, scaled so that its longer side has this many pixels."""
    scale = longest / max(picture.size)
    size = tuple(max(1, round(v * scale)) for v in picture.size)
    return picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)


def save(image: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Write a picture in the format that its name asks for.

    Raises:
        FoveateError: the name asks for no known format, or the folder cannot be written to.
    """
    form = check_name(path)
    buffer = io.BytesIO()
    image.save(buffer, format=form, quality=90)
    return files.write(path, buffer.getvalue())


def check_name(path: str | os.PathLike[str]) -> str:
    """The image format that a file name asks for, with the folder checked: before the work, not after it.

    Raises:
        FoveateError: no known format, or no such folder.
    """
    target = files.check_target(path)
    known = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    if (ending := target.suffix.lower()) not in known:
        raise FoveateError(f"{target} names no picture format; end it with {', '.join(known)}")
    return known[ending]


def where(at: Place) -> str:
    """A cut's place in words."""
    return {"encoder": "before the projector", "input": "at the input"}.get(str(at), f"before layer {at}")


def _rows(picture: Picture, report: ImageReport, image_processor: Any) -> list[list[Panel]]:
    if report.kind == "video":
        return _video_rows(picture, report)
    image = picture if isinstance(picture, Image.Image) else picture[0]
    placed = place(image, report.grid, image_processor)
    first = Panel(fit(image), f"image {report.image + 1}", f"{report.tokens} visual tokens")
    cuts = [Panel(dim(image, placed, c.kept), where(c.at), _share(c.kept, report.tokens, placed)) for c in report.cuts]
    return [[first, *cuts]]


def _share(kept: Sequence[int], tokens: int, placed: Sequence[Placed]) -> str:
    """How many stay, and how many of them are not in the picture: thumbnails and newlines."""
    text = f"{len(kept)} of {tokens} kept ({len(kept) / tokens:.1%})"
    blocks = [p.block for p in placed]
    shown = sum(any(_is_cell(b, k) for b in blocks) for k in kept)
    return text if shown == len(kept) else f"{text}, {shown} shown"


def _is_cell(block: Block, token: int) -> bool:
    place = token - block.start
    return 0 <= place < block.size and place % block.row_stride < block.columns


def _video_rows(picture: Picture, report: ImageReport) -> list[list[Panel]]:
    """One row of small panels for each cut, one panel for each of at most MAX_FRAMES frames, evenly chosen."""
    frames = [picture] if isinstance(picture, Image.Image) else list(picture)
    blocks = report.grid
    n = min(MAX_FRAMES, len(blocks))
    chosen = [round(i * (len(blocks) - 1) / max(1, n - 1)) for i in range(n)]
    rows = []
    for cut in report.cuts:
        row = []
        for i in chosen:
            # Models merge neighbouring frames into one block; its middle frame stands for it.
            image = frames[min(len(frames) - 1, int((i + 0.5) * len(frames) / len(blocks)))]
            block = blocks[i]
            left = sum(block.start <= k < block.start + block.size for k in cut.kept)
            whole = Placed(block, (0.0, 0.0, float(image.width), float(image.height)))
            panel = dim(image, [whole], cut.kept, PANEL // 2)
            row.append(Panel(panel, where(cut.at) if i == chosen[0] else "", f"frame {i + 1}: {left} of {block.size}"))
        rows.append(row)
    return rows


def _edges(start: float, stop: float, cells: int, limit: int) -> list[int]:
    return [min(limit, max(0, round(start + (stop - start) * i / cells))) for i in range(cells + 1)]


def _grow(mask: np.ndarray) -> np.ndarray:
    """The mask and the pixels that touch it, diagonals included."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    out = np.zeros_like(mask)
    for dy in range(3):
        for dx in range(3):
            out |= padded[dy : dy + height, dx : dx + width]
    return out


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


def _cut(text: str, font: Any, width: int) -> str:
    """The text, shortened so that it fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
