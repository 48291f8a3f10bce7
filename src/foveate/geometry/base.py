"""How the images of a call become tokens: how many, where they lie, and which of the tower's rows each comes from.

A tower speaks in *rows*: what goes into the projector, all images of a call in one list of R rows. The LLM receives
*tokens*. `pack` is the one bridge between them; every signal of the tower crosses it, so that none can be out of step
with the tokens it describes. `base` is whatever holds the model's `config`, and its own packing where it has one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from foveate.selection import Block, Grid

Kind = Literal["image", "video"]
Call = Mapping[str, Any]
"""The arguments of one get_image_features or get_video_features call."""


@dataclass(frozen=True)
class Unit:
    """One image or video of a call: how many tokens it becomes, and where they lie."""

    kind: Kind
    tokens: int
    grid: Grid


class Geometry:
    """The common part: one token a row of positions, one square block an image."""

    model_type: str
    joins_units: ClassVar[bool] = False
    """Adjacent units of a prompt are one image (InternVL's tiles)."""
    mrope: ClassVar[bool] = False
    """Positions have three axes (time, row, column)."""

    def token_id(self, config: Any, kind: Kind) -> int | None:
        """The placeholder in `input_ids`, or None where the model takes no such thing."""
        return getattr(config, f"{kind}_token_id", None)

    def has_cls(self, base: Any) -> bool:
        """Whether the tower has a [CLS] token."""
        raise NotImplementedError

    # -- from rows to tokens

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """How many rows this call will put through the projector, from the shapes of its inputs alone."""
        raise NotImplementedError

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Bring one value per row to one value per token, image by image, as the model brings its features.

        Args:
            base: the base module.
            kind: what the call encodes.
            call: its arguments.
            rows_RC: one row of any width for each projector row.
            newline: what tokens that come from no row receive.

        Returns:
            One tensor [N, C] an image.
        """
        raise NotImplementedError

    def exact(self, base: Any, kind: Kind, call: Call) -> bool:
        """Whether `pack` only moves rows; False where it resamples them."""
        return True

    def units(self, base: Any, kind: Kind, call: Call) -> list[Unit]:
        """Counts and grids of the images of a call, known before anything is encoded."""
        r = self.rows(base, kind, call)
        # On the CPU: this is bookkeeping, and must not wait for a device.
        index = torch.arange(r, dtype=torch.float64).unsqueeze(1)
        return [
            Unit(kind, len(t), self.grid(base, kind, call, t.squeeze(1)))
            for t in self.pack(base, kind, call, index, -1.0)
        ]

    def grid(self, base: Any, kind: Kind, call: Call, source_N: Tensor) -> Grid:
        """Where the tokens of one image lie; `source_N` is the row of each token, negative where there is none."""
        side = round(len(source_N) ** 0.5)
        return (Block(0, side, side),)

    # -- where they stand in the prompt

    def places(self, unit: Unit) -> Tensor:
        """Position of each token relative to the image's first: [N], or [N, 3] (time, row, column) with M-RoPE."""
        return torch.arange(unit.tokens)

    def span(self, unit: Unit) -> int:
        """How many positions the image takes up in the prompt."""
        return unit.tokens


def join(units: Sequence[Unit]) -> Unit:
    """Units that follow each other without a gap, as the one image that they make up."""
    grid, start = [], 0
    for unit in units:
        grid += [replace(b, start=b.start + start) for b in unit.grid]
        start += unit.tokens
    return Unit(units[0].kind, start, tuple(grid))
