"""LFM2-VL: pictures of any size, padded to one number of patches, and 2x2 patches unshuffled to a token."""

from typing import Any

import torch
from torch import Tensor

from foveate.geometry.base import Call, Geometry, Kind, Unit
from foveate.geometry.qwen import frames


class Lfm2VlGeometry(Geometry):
    """`lfm2_vl`. Each tile, and the thumbnail, is a picture of its own. Rows are slots: padding is projected too."""

    model_type = "lfm2_vl"

    def sides(self, base: Any, call: Call, cell: int) -> list[tuple[int, int]]:
        """Rows and columns of each picture, in cells of so many patches a side."""
        return [(h // cell, w // cell) for h, w in torch.as_tensor(call["spatial_shapes"]).tolist()]

    def slots(self, base: Any, call: Call) -> int:
        """Places for tokens that each picture has, whatever its size."""
        return int(call["pixel_values"].shape[1]) // base.config.downsample_factor**2

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Pictures x slots."""
        return int(call["pixel_values"].shape[0]) * self.slots(base, call)

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Each picture's first slots."""
        sides = self.sides(base, call, base.config.downsample_factor)
        return [x[: h * w] for x, (h, w) in zip(rows_RC.split(self.slots(base, call)), sides, strict=True)]

    def units(self, base: Any, kind: Kind, call: Call) -> list[Unit]:
        """Grids differ from picture to picture."""
        return [Unit(kind, h * w, frames(1, h, w)) for h, w in self.sides(base, call, base.config.downsample_factor)]

    def has_cls(self, base: Any) -> bool:
        """SigLIP 2 has none."""
        return False
