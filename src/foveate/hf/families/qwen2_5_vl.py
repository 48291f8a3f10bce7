"""Qwen2.5-VL: as Qwen2-VL, with window attention in most blocks, for which the tower reorders its cells."""

from typing import Any

from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from foveate.hf.families.base import Call, Kind
from foveate.hf.families.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    """`qwen2_5_vl`: Qwen2_5_VLForConditionalGeneration."""

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
        return super().pack(base, kind, call, rows_RC[window_index.argsort().to(rows_RC.device)], newline)

    def full_block(self, base: Any) -> int:
        """Window blocks see a part of the frame only."""
        return max(base.visual.fullatt_block_indexes)
