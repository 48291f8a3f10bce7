"""LLaVA-NeXT-Video: images as LLaVA-NeXT's; a video's frames are pooled before the projector, without newlines."""

from typing import Any

from torch import Tensor

from foveate.geometry.base import Call, Kind
from foveate.geometry.llava_next import LlavaNextGeometry
from foveate.selection import Block, Grid


class LlavaNextVideoGeometry(LlavaNextGeometry):
    """`llava_next_video`."""

    model_type = "llava_next_video"

    def side(self, base: Any) -> int:
        """Pooled cells along one side of a frame."""
        return round(self.patches(base) ** 0.5) // int(base.config.spatial_pool_stride)

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Tiles x patches, or frames x pooled cells."""
        if kind == "image":
            return super().rows(base, kind, call)
        return int(call["pixel_values_videos"].shape[:2].numel()) * self.side(base) ** 2

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Of a video, row order is token order."""
        if kind == "image":
            return super().pack(base, kind, call, rows_RC, newline)
        return list(rows_RC.split(int(call["pixel_values_videos"].shape[1]) * self.side(base) ** 2))

    def grid(self, base: Any, kind: Kind, call: Call, source_N: Tensor) -> Grid:
        """A video is one block a frame."""
        if kind == "image":
            return super().grid(base, kind, call, source_N)
        side = self.side(base)
        return tuple(Block(start, side, side) for start in range(0, len(source_N), side * side))
