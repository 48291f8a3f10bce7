"""Panels in rows on a white page, and the file they are written to. Pillow alone."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from foveate import files
from foveate.errors import FoveateError

PAGE = (255, 255, 255)
_INK, _FAINT = (24, 28, 36), (112, 120, 134)
_GAP, _MARGIN = 16, 24
_MIN_SLOT = 168  # a narrow picture still has room for its caption


@dataclass(frozen=True)
class Panel:
    """A picture in a sheet, with a line of text above it and a fainter one below that."""

    image: Image.Image
    title: str
    subtitle: str = ""
    colour: tuple[int, int, int] = _FAINT
    """Of the subtitle."""


def sheet(rows: Sequence[Sequence[Panel]], title: str = "") -> Image.Image:
    """Panels in rows on a white page, text above each."""
    small, large = ImageFont.load_default(14), ImageFont.load_default(20)
    slots = [[max(p.image.width, _MIN_SLOT) for p in row] for row in rows]
    heights = [max(p.image.height for p in row) for row in rows]
    captions = [24 + 20 * any(p.subtitle for p in row) for row in rows]
    head = 40 if title else 0
    width = max(sum(s) + _GAP * (len(s) - 1) for s in slots) + 2 * _MARGIN
    height = head + sum(heights) + sum(captions) + _GAP * (len(rows) - 1) + 2 * _MARGIN
    page = Image.new("RGB", (width, height), PAGE)
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


def _cut(text: str, font: Any, width: int) -> str:
    """The text, shortened so that it fits."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def save(image: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Write a picture in the format that its name asks for.

    Raises:
        FoveateError: the name asks for no format, or one of smaller pictures; or the folder cannot be written to.
    """
    form = check_name(path)
    buffer = io.BytesIO()
    try:
        image.save(buffer, format=form, quality=90)
    except (OSError, ValueError):
        width, height = image.size
        many = f"{path} would have {width:,} x {height:,} pixels"
        raise FoveateError(f"{many}, too many for {form}; write a .png") from None
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
