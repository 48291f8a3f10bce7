"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: patches of all images in one row, a 2x2 merger, M-RoPE; Qwen2.5 also has windows."""

from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from foveate.geometry.base import Call, Geometry, Kind, Unit
from foveate.ops.host import upload
from foveate.selection import Block, Grid


class Qwen2VLGeometry(Geometry):
    """`qwen2_vl`."""

    model_type = "qwen2_vl"
    mrope = True

    def merge(self, base: Any) -> int:
        """Patches along one side of a merged cell."""
        return base.visual.spatial_merge_size

    def thw(self, kind: Kind, call: Call) -> Tensor:
        """Frames, patch rows and patch columns of each image."""
        return call[f"{kind}_grid_thw"]

    def cells(self, base: Any, kind: Kind, call: Call) -> list[int]:
        """Tokens of each image."""
        return (self.thw(kind, call).prod(-1) // self.merge(base) ** 2).tolist()

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Merged cells of the whole call."""
        return sum(self.cells(base, kind, call))

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        return list(rows_RC.split(self.cells(base, kind, call)))

    def units(self, base: Any, kind: Kind, call: Call) -> list[Unit]:
        """Grids differ from image to image, so they are read off the call and not off the count."""
        m = self.merge(base)
        return [
            Unit(kind, t * (h // m) * (w // m), frames(t, h // m, w // m)) for t, h, w in self.thw(kind, call).tolist()
        ]

    def has_cls(self, base: Any) -> bool:
        """There is none."""
        return False

    def full_block(self, base: Any, first: bool = False) -> int:
        """The last block with attention over the whole frame, or the first."""
        return 0 if first else -1

    def places(self, unit: Unit) -> Tensor:
        """Frame, row and column of each cell."""
        block = unit.grid[0]
        axes = (torch.arange(n) for n in (len(unit.grid), block.rows, block.columns))
        return torch.cartesian_prod(*axes).view(-1, 3)

    def span(self, unit: Unit) -> int:
        """The longest axis."""
        return max(len(unit.grid), unit.grid[0].rows, unit.grid[0].columns)


class Qwen25VLGeometry(Qwen2VLGeometry):
    """`qwen2_5_vl`: its tower reorders cells by window."""

    model_type = "qwen2_5_vl"

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Undo the window order, as the tower does after its merger."""
        vision = base.visual
        window_index, _ = get_vision_window_index(
            self.thw(kind, call),
            spatial_merge_size=vision.spatial_merge_size,
            window_size=vision.window_size,
            patch_size=vision.patch_size,
        )
        return super().pack(base, kind, call, rows_RC[upload(window_index.argsort(), rows_RC.device)], newline)

    def full_block(self, base: Any, first: bool = False) -> int:
        """Window blocks see a part of the frame only."""
        return (min if first else max)(base.visual.fullatt_block_indexes)


class Qwen3VLGeometry(Qwen2VLGeometry):
    """`qwen3_vl`."""

    model_type = "qwen3_vl"


class Qwen3VLMoeGeometry(Qwen3VLGeometry):
    """`qwen3_vl_moe`."""

    model_type = "qwen3_vl_moe"


class Qwen35Geometry(Qwen2VLGeometry):
    """`qwen3_5`."""

    model_type = "qwen3_5"


class Qwen35MoeGeometry(Qwen35Geometry):
    """`qwen3_5_moe`."""

    model_type = "qwen3_5_moe"


class Glm4vGeometry(Qwen2VLGeometry):
    """`glm4v`: merged cells, as Qwen2-VL's."""

    model_type = "glm4v"


class Glm4vMoeGeometry(Glm4vGeometry):
    """`glm4v_moe`."""

    model_type = "glm4v_moe"


class Glm46vGeometry(Glm4vGeometry):
    """`glm46v`."""

    model_type = "glm46v"


def frames(t: int, h: int, w: int) -> Grid:
    """One block a frame."""
    return tuple(Block(f * h * w, h, w) for f in range(t))
