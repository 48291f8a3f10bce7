"""Prompts that come as embeddings with the image features already in them: from a cached encoder, or a service.

Nobody can see in an embedding that it is an image's, so the caller says where they are.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from foveate.errors import ModelError, PlanError, SignalError, short
from foveate.fields import TOWER
from foveate.hf.locating import numbered
from foveate.hf.prompt import Image
from foveate.plan import Plan
from foveate.selection import Block, Grid

Given = tuple[int, int, int] | Grid
"""(frames, rows, columns), or blocks as in `TokenView.grid`."""


class Embedded:
    """Where the visual tokens are.

    Args:
        visual_BL: true at each of them.
        grids: where the tokens of each image lie, image by image, row by row; their sizes also part images that touch.
            None: each stretch of visual tokens is an image, whose tokens lie in one row.

    Raises:
        ModelError: no mask, nothing visual, or grids of other sizes than the stretches.
    """

    def __init__(self, visual_BL: Tensor, grids: Sequence[Given] | None = None) -> None:
        if not isinstance(visual_BL, Tensor) or visual_BL.ndim != 2 or visual_BL.dtype != torch.bool:
            raise ModelError("visual tokens are told by a bool mask of shape [batch, length], one place an embedding")
        if not bool(visual_BL.any()):
            raise ModelError("the mask of visual tokens is false everywhere; leave it away for prompts without images")
        self.visual_BL = visual_BL
        self.images = self._stretches(visual_BL.tolist())
        if grids is not None:
            if not isinstance(grids, Sequence):
                raise ModelError(f"grids is {short(repr(grids))}; give a list with a grid for each image")
            self.images = self._parted([_blocks(g) for g in grids])

    @staticmethod
    def _stretches(rows: list[list[bool]]) -> list[tuple[int, int, int, Grid]]:
        """(row, start, tokens, grid) of each stretch."""
        out: list[tuple[int, int, int, Grid]] = []
        for row, line in enumerate(rows):
            start = 0
            for visual, run in groupby(line):
                n = len(list(run))
                if visual:
                    out.append((row, start, n, (Block(0, 1, n),)))
                start += n
        return out

    def _parted(self, grids: list[Grid]) -> list[tuple[int, int, int, Grid]]:
        out: list[tuple[int, int, int, Grid]] = []
        waiting = iter(grids)
        for row, start, n, _ in self.images:
            end = start + n
            while start < end:
                grid = next(waiting, None)
                size = 0 if grid is None else sum(b.size for b in grid)
                if grid is None or start + size > end:
                    raise ModelError(
                        f"{end - start} visual tokens from place {start} of row {row} do not make the image that comes "
                        f"next{f', of {size} tokens' if size else ': no grid is left'}; give a grid for each image"
                    )
                out.append((row, start, size, grid))
                start += size
        if (left := len(list(waiting))) > 0:
            raise ModelError(f"{left} grids more than there are images")
        return out

    def in_batch(self, embeds: Tensor) -> tuple[list[Image], Tensor]:
        """The images and the mask, each prompt repeated as `generate` repeats it for beams.

        Raises:
            ModelError: the mask is of other prompts.
        """
        b, length = embeds.shape[:2]
        times, rest = divmod(b, len(self.visual_BL))
        if rest or self.visual_BL.shape[1] != length:
            raise ModelError(
                f"inputs_embeds are {b} x {length}, but the mask of visual tokens is {tuple(self.visual_BL.shape)}"
            )
        images = []
        for row, start, n, grid in self.images:
            for again in range(times):
                place = torch.arange(start, start + n)
                images.append(Image(row * times + again, 0, "image", grid, place, torch.arange(n), {}, (n,)))
        return numbered(images), self.visual_BL.to(embeds.device).repeat_interleave(times, 0)


def check_embedded(plan: Plan) -> None:
    """Refuse plans that need the encoder to run.

    Raises:
        PlanError: a cut at the encoder.
        SignalError: a selector reads what the tower alone can tell.
    """
    if any(cut.at == "encoder" for cut in plan.cuts):
        raise PlanError('a cut at "encoder" has nothing to cut where images come as embeddings; cut at "input"')
    if reads := plan.reads & frozenset(TOWER):
        raise SignalError(
            f"this plan reads {', '.join(sorted(reads))}, which a vision tower tells while it runs; where images come "
            "as embeddings, use a method that reads tokens, text or the LLM's attention"
        )


def _blocks(grid: Any) -> Grid:
    if isinstance(grid, tuple | list) and len(grid) == 3 and all(isinstance(x, int) for x in grid):
        frames, rows, columns = grid
        grid = tuple(Block(f * rows * columns, rows, columns) for f in range(frames))
    blocks = isinstance(grid, tuple | list) and grid and all(isinstance(b, Block) for b in grid)
    if not blocks or any(min(b.rows, b.columns) < 1 for b in grid):
        raise ModelError(
            f"{short(repr(grid))} is no grid; give one for each image, (frames, rows, columns) of at least 1 each, or "
            "blocks"
        )
    return tuple(grid)
