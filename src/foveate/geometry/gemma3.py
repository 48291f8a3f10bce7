"""Gemma 3: square pictures, their patches pooled to a square of few tokens."""

from typing import Any

from torch import Tensor

from foveate.geometry.base import Call, Geometry, Kind
from foveate.geometry.tower import square_cells


class Gemma3Geometry(Geometry):
    """`gemma3`. Pan-and-scan crops are pictures of their own."""

    model_type = "gemma3"

    def side(self, base: Any) -> int:
        """Patches along one side."""
        vision = base.config.vision_config
        return vision.image_size // vision.patch_size

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Pictures x patches."""
        return int(call["pixel_values"].shape[0]) * self.side(base) ** 2

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Means over the cells that the projector pools."""
        side, tokens = self.side(base), base.config.mm_tokens_per_image
        cells = square_cells(rows_RC.unflatten(0, (-1, side * side)), side // round(tokens**0.5))
        return list(cells.split(tokens))

    def exact(self, base: Any, kind: Kind, call: Call) -> bool:
        """A token is a mean of rows."""
        return False

    def has_cls(self, base: Any) -> bool:
        """SigLIP has none."""
        return False
