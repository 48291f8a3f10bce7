"""InternVL: 2x2 pixel shuffle, an image as one or more tiles that the model never tells apart."""

from typing import Any

from torch import Tensor

from foveate.geometry.base import Call, Geometry, Kind


class InternVLGeometry(Geometry):
    """`internvl`."""

    model_type = "internvl"
    joins_units = True

    def merge(self, base: Any) -> int:
        """Patches along one side of a token's cell."""
        return round(1 / base.config.downsample_ratio)

    def cells(self, base: Any) -> int:
        """Tokens of one tile."""
        vision = base.config.vision_config
        size, patch = (x if isinstance(x, int) else x[0] for x in (vision.image_size, vision.patch_size))
        return (size // patch // self.merge(base)) ** 2

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Tiles x tokens."""
        return int(call["pixel_values"].shape[0]) * self.cells(base)

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        return list(rows_RC.split(self.cells(base)))

    def has_cls(self, base: Any) -> bool:
        """InternViT has a class token."""
        return True
