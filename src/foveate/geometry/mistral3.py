"""Mistral 3: a Pixtral tower that packs pictures of any size into one row, and a merger of 2x2 patches."""

from typing import Any

import torch
from torch import Tensor

from foveate.geometry.base import Call, Geometry, Kind, Unit
from foveate.geometry.qwen import frames


class Mistral3Geometry(Geometry):
    """`mistral3`. The processor's row ends are other tokens than the picture's."""

    model_type = "mistral3"

    def merge(self, base: Any) -> int:
        """Patches along one side of a merged cell."""
        return base.config.spatial_merge_size

    def sides(self, base: Any, call: Call, cell: int) -> list[tuple[int, int]]:
        """Rows and columns of each picture, in cells of so many patches a side."""
        edge = base.config.vision_config.patch_size * cell
        return [(h // edge, w // edge) for h, w in torch.as_tensor(call["image_sizes"]).tolist()]

    def cells(self, base: Any, call: Call) -> list[int]:
        """Tokens of each picture."""
        return [h * w for h, w in self.sides(base, call, self.merge(base))]

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Merged cells of the whole call."""
        return sum(self.cells(base, call))

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        return list(rows_RC.split(self.cells(base, call)))

    def units(self, base: Any, kind: Kind, call: Call) -> list[Unit]:
        """Grids differ from picture to picture."""
        return [Unit(kind, h * w, frames(1, h, w)) for h, w in self.sides(base, call, self.merge(base))]

    def has_cls(self, base: Any) -> bool:
        """There is none."""
        return False


class PixtralGeometry(Mistral3Geometry):
    """`llava` with a Pixtral tower, as Pixtral 12B: each patch is a token."""

    model_type = "llava"

    def merge(self, base: Any) -> int:
        """Nothing is merged."""
        return 1
