"""Video-LLaVA: images as LLaVA-1.5's; of a video, each frame's [CLS] goes to the language model with its patches."""

from typing import Any

from torch import Tensor

from foveate.geometry.base import Call, Kind
from foveate.geometry.llava import LlavaGeometry
from foveate.selection import Block, Grid


class VideoLlavaGeometry(LlavaGeometry):
    """`video_llava`."""

    model_type = "video_llava"

    def rows(self, base: Any, kind: Kind, call: Call) -> int:
        """Images x patches, or frames x patches and [CLS]."""
        if kind == "video":
            return int(call["pixel_values_videos"].shape[0]) * self.frame(base) * self.frames(call)
        # Older transformers name them otherwise.
        pixels = next(call[k] for k in ("pixel_values", "pixel_values_images") if call.get(k) is not None)
        return int(pixels.shape[0]) * self.patches(base)

    def pack(self, base: Any, kind: Kind, call: Call, rows_RC: Tensor, newline: float = 0.0) -> list[Tensor]:
        """Row order is token order."""
        if kind == "video":
            return list(rows_RC.split(self.frame(base) * self.frames(call)))
        return super().pack(base, kind, call, rows_RC, newline)

    def grid(self, base: Any, kind: Kind, call: Call, source_N: Tensor) -> Grid:
        """A video is one block a frame; [CLS] lies outside them all."""
        if kind == "image":
            return super().grid(base, kind, call, source_N)
        side = round(self.patches(base) ** 0.5)
        return tuple(Block(f * self.frame(base) + 1, side, side) for f in range(self.frames(call)))

    def frame(self, base: Any) -> int:
        """Tokens of one frame."""
        return self.patches(base) + 1

    def frames(self, call: Call) -> int:
        """Frames of each video."""
        return int(call["pixel_values_videos"].shape[1])
