"""One picture as a panel: scaled, and dimmed where tokens were dropped."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from foveate.viz.places import Placed
from foveate.viz.sheets import PAGE

PANEL = 336
"""Longest side of a panel in pixels."""
_LINE = (255, 255, 255)


def fit(picture: Image.Image, longest: int = PANEL) -> Image.Image:
    """The picture as RGB, scaled so that its longer side has this many pixels."""
    scale = longest / max(picture.size)
    size = tuple(max(1, round(v * scale)) for v in picture.size)
    return picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)


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
    unseen = 0.12 * grey + 0.88 * np.asarray(PAGE, dtype=np.float32)
    out = np.where(stays[..., None], pixels, np.where(seen[..., None], dropped, unseen))
    border = _grow(stays) & ~stays & seen
    out[border] = 0.45 * out[border] + 0.55 * np.asarray(_LINE, dtype=np.float32)
    return Image.fromarray(out.astype(np.uint8))


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
