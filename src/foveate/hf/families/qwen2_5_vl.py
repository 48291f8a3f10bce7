"""Qwen2.5-VL: as Qwen2-VL, with window attention in most blocks of the tower."""

from foveate.geometry.qwen import Qwen25VLGeometry
from foveate.hf.families.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen25VLGeometry, Qwen2VL):
    """`qwen2_5_vl`: Qwen2_5_VLForConditionalGeneration."""
