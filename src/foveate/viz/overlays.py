"""What a report says, drawn: one panel a cut, one row an image."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from foveate.cut import Place
from foveate.errors import FoveateError
from foveate.hf.report import CutReport, ImageReport, Report
from foveate.selection import Block
from foveate.viz.panels import PANEL, dim, fit
from foveate.viz.places import Placed, joined, place
from foveate.viz.sheets import Panel, sheet

MAX_FRAMES = 8
Picture = Image.Image | Sequence[Image.Image]
"""An image, or the frames of a video."""


def overlay(
    pictures: Sequence[Picture],
    report: Report,
    image_processor: Any = None,
    title: str = "",
    columns: int | None = None,
) -> Image.Image:
    """A sheet with one row for each image of the report: the picture, then one panel for each cut.

    Args:
        pictures: what the prompt's images were, in the report's order; a sequence of frames stands for a video. Of one
            picture alone, the report's images may be tiles that the model took it apart into.
        report: from `Attachment.report`.
        image_processor: says whether the model saw the whole picture or its centre.
        title: a line above the sheet.
        columns: panels in a row at most; what is more goes below. By default there is no limit.

    Raises:
        FoveateError: no report, not as many pictures as it has images, or no panel in a row.
    """
    if not isinstance(report, Report):
        raise FoveateError(
            "there is no report to draw: attached.report is None before, and after, a prompt without images"
        )
    if columns is not None and columns < 1:
        raise FoveateError(f"columns is {columns}; a row holds at least 1 panel")
    images = report.images
    if len(pictures) == 1 and len(images) > 1 and {(i.row, i.kind) for i in images} == {(images[0].row, "image")}:
        images = (_whole(images),)
    if len(pictures) != len(images):
        raise FoveateError(
            f"{len(pictures)} pictures for a report about {len(images)} images; give one for each, or draw prompts of "
            "one picture where a model takes pictures apart into tiles"
        )
    rows = [row for p, r in zip(pictures, images, strict=True) for row in _rows(p, r, image_processor)]
    if columns is not None:
        rows = [row[i : i + columns] for row in rows for i in range(0, len(row), columns)]
    return sheet(rows, title)


def where(at: Place) -> str:
    """A cut's place in words."""
    return {"encoder": "before the projector", "input": "at the input"}.get(str(at), f"before layer {at}")


def _whole(tiles: Sequence[ImageReport]) -> ImageReport:
    """The tiles of a picture as that picture."""

    def one(parts: Sequence[CutReport]) -> CutReport:
        _, kept = joined((tile.grid, cut.kept) for tile, cut in zip(tiles, parts, strict=True))
        return CutReport(parts[0].at, sum(c.asked for c in parts), len(kept), lambda: torch.tensor(kept))

    grid, _ = joined((tile.grid, ()) for tile in tiles)
    cuts = tuple(one(parts) for parts in zip(*(tile.cuts for tile in tiles), strict=True))
    layers = tuple(sum(counts) for counts in zip(*(tile.per_layer for tile in tiles), strict=True))
    return ImageReport(tiles[0].row, 0, "image", sum(tile.tokens for tile in tiles), grid, cuts, layers)


def _rows(picture: Picture, report: ImageReport, image_processor: Any) -> list[list[Panel]]:
    if report.kind == "video":
        return _video_rows(picture, report)
    image = picture if isinstance(picture, Image.Image) else picture[0]
    placed = place(image, report.grid, image_processor)
    first = Panel(fit(image), f"image {report.image + 1}", f"{report.tokens} visual tokens")
    cuts = [Panel(dim(image, placed, c.kept), where(c.at), share(c.kept, report.tokens, placed)) for c in report.cuts]
    return [[first, *cuts]]


def share(kept: Sequence[int], tokens: int, placed: Sequence[Placed]) -> str:
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
