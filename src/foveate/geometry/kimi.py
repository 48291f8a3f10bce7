"""Kimi K2.5: patches of pictures of any size in one row, merged 2x2; a video's frames are averaged into one."""

from typing import Any

import torch

from foveate.geometry.base import Call
from foveate.geometry.mistral3 import Mistral3Geometry


class KimiGeometry(Mistral3Geometry):
    """`kimi_k25`. A video takes as many tokens as one of its frames."""

    model_type = "kimi_k25"

    def merge(self, base: Any) -> int:
        """Patches along one side of a merged cell."""
        return base.config.vision_config.merge_kernel_size[0]

    def thw(self, call: Call) -> list[tuple[int, int, int]]:
        """Frames, patch rows and patch columns of each picture or video."""
        grid = call["video_grid_thw"] if "video_grid_thw" in call else call["image_grid_thw"]
        return [(t, h, w) for t, h, w in torch.as_tensor(grid).tolist()]

    def sides(self, base: Any, call: Call, cell: int) -> list[tuple[int, int]]:
        """Rows and columns of each picture, or of a video's frame."""
        return [(h // cell, w // cell) for _, h, w in self.thw(call)]
