"""Open any real picture as upright 8-bit RGB, or say what is wrong with the file."""

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from foveate.errors import FoveateError, short
from foveate.files import place

MAX_PIXELS = 89_478_485
"""Pillow's own limit: a quarter of a gigabyte once decoded. Vision encoders see a fraction of it."""

STDIN = "-"
"""Names the picture that stands on standard input."""

_URL = re.compile(r"(data:|[A-Za-z][A-Za-z0-9+.-]+:/)")
_LOOKED_AT = 64
_HAS_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


def load(path: str | os.PathLike[str]) -> Image.Image:
    """The picture as a person sees it: rotated as EXIF says, transparency on white, 8 bits a channel, RGB.

    An animation gives its first frame. 16-bit values are scaled, floats are taken as 0..1 unless they exceed it.

    Raises:
        FoveateError: the file is missing, no image, cut short, or larger than MAX_PIXELS; or the name is a URL.
    """
    if os.fspath(path) == STDIN:
        return from_bytes(_stdin(), "standard input")
    check_local(path)
    file = place(path)
    if not file.exists():
        raise FoveateError(f"no image {file}; check the path")
    if file.is_dir():
        raise FoveateError(f"{file} is a folder; name the image files in it")
    return _open(file, str(file), lambda: _head(file))


def from_bytes(data: bytes, name: str) -> Image.Image:
    """As `load`, from the bytes of a file; `name` stands for it in messages."""
    return _open(io.BytesIO(data), name, lambda: data[:_LOOKED_AT])


def check_local(path: str | os.PathLike[str]) -> None:
    """Refuse a URL where a file is meant.

    Raises:
        FoveateError: it is one.
    """
    if _URL.match(text := os.fspath(path)):
        raise FoveateError(f"{short(text)} is a URL, and Foveate fetches nothing; save the picture, and name the file")


def _open(file: Path | io.BytesIO, name: str, head: Callable[[], bytes]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                _check_size(name, image.size)
                image.load()
                return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise FoveateError(f"{name} is no image ({_looks_like(head())}); give a PNG, JPEG, WebP or the like") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise FoveateError(f"{name} has more than {MAX_PIXELS / 1e6:.0f} million pixels; scale it down first") from None
    except (FoveateError, MemoryError):
        raise
    except Exception as e:  # Pillow's decoders each answer a damaged file in their own way
        raise FoveateError(f"{name} cannot be read as an image ({e}); copy or export it again") from None


def _stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise FoveateError('"-" reads a picture from standard input, which is a keyboard here; write `< picture.png`')
    return sys.stdin.buffer.read()


def load_all(paths: Sequence[str | os.PathLike[str]]) -> list[Image.Image]:
    """`load` for each, so that the last bad file is found before any work on the first.

    Raises:
        FoveateError: as `load`; or more than one is standard input.
    """
    if sum(os.fspath(p) == STDIN for p in paths) > 1:
        raise FoveateError('"-" names standard input twice; it holds one picture')
    return [load(p) for p in paths]


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB; a new image or the same one."""
    if image.mode in _HAS_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_bytes(image)).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_bytes(image: Image.Image) -> np.ndarray:
    """Deep greyscale as uint8. Pillow's own convert() clips at 255 and makes such pictures white."""
    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = values.max(initial=0.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and top > 255):
        values = values / 257.0  # 65535 -> 255
    elif image.mode == "F" and top <= 1.0:
        values = values * 255.0
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise FoveateError(
            f"{name} has {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} million; scale it down first"
        )


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_LOOKED_AT)


def _looks_like(head: bytes) -> str:
    if not head:
        return "the file is empty"
    if head.lstrip().startswith((b"<svg", b"<?xml")):
        return "it looks like SVG, which is drawn, not stored as pixels"
    if head.lstrip()[:1] == b"<":
        return "it looks like a web page"
    if head.startswith(b"%PDF"):
        return "it is a PDF"
    return "unknown format"
