"""Idefics3 and SmolVLM: square tiles that stand apart in the prompt, their patches shuffled into tokens."""

from typing import Any

from torch import Tensor

from foveate.geometry.base import Call, Geometry, Kind


class Idefics3Geometry(Geometry):
    """`idefics3`. Each tile, and the thumbnail, is a picture of its own: text stands between them."""

    model_type = "idefics3"

    def cells(self, base: Any, call: Call) -> int:
        """Tokens of one tile."""
        return (call["pixel_values"].shape[-1] // base.config.vision_config.patch_size // base.config.scale_factor) ** 2

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Tiles x tokens; tiles of zeros pad prompts with fewer of them, and never reach the tower."""
        return int((call["pixel_values"] != 0).flatten(2).any(-1).sum()) * self.cells(base, call)

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        return list(rows_RC.split(self.cells(base, call)))

    def has_cls(self, base: Any) -> bool:
        """There is none."""
        return False


class SmolVLMGeometry(Idefics3Geometry):
    """`smolvlm`."""

    model_type = "smolvlm"
