"""The tiles of an AnyRes image, read off its blocks: a thumbnail first, then one tiled block, or a block a tile."""

import torch
from torch import Tensor

from foveate.selection import Block


def _layout(thumb: Block, tiled: Block) -> tuple[int, int]:
    """Rows and columns of tiles in a tiled block."""
    return max(1, round(tiled.rows / thumb.rows)), max(1, round(tiled.columns / thumb.columns))


def tiles_of(blocks: tuple[Block, ...], device: torch.device) -> tuple[Block, Tensor, int]:
    """The thumbnail, the tile of each token behind it, and how many tiles there are."""
    thumb, *others = blocks
    if len(others) > 1:
        parts = [torch.full((x.size,), i, device=device) for i, x in enumerate(others)]
        return thumb, torch.cat(parts), len(others)
    tiled = others[0]
    down, across = _layout(thumb, tiled)
    row_R1 = torch.arange(tiled.rows, device=device)[:, None] * down // tiled.rows
    column_C = (torch.arange(tiled.row_stride, device=device).clamp(max=tiled.columns - 1)) * across // tiled.columns
    return thumb, (row_R1 * across + column_C).flatten(), down * across


def shown(thumb: Block, blocks: tuple[Block, ...], tiles: int, device: torch.device, bands: bool = False) -> Tensor:
    """The tile that each cell of the thumbnail shows: [S]; as flat bands where they lie in no rows, or `bands` asks."""
    cell_S = torch.arange(thumb.size, device=device)
    across = _layout(thumb, blocks[1])[1] if len(blocks) == 2 else 0
    if bands or not across:
        return cell_S * tiles // thumb.size
    row_S, column_S = cell_S // thumb.columns, cell_S % thumb.columns
    return row_S * (tiles // across) // thumb.rows * across + column_S * across // thumb.columns
