"""Qwen3-VL: as Qwen2-VL, with DeepStack: tower features of earlier blocks are added to the first decoder layers."""

from foveate.geometry.qwen import Qwen3VLGeometry, Qwen3VLMoeGeometry
from foveate.hf.families.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen3VLGeometry, Qwen2VL):
    """`qwen3_vl`: Qwen3VLForConditionalGeneration."""

    note = (
        "DeepStack planes are cut with the tokens. Video frames stand apart in the prompt and are pruned as one video."
    )


class Qwen3VLMoe(Qwen3VLMoeGeometry, Qwen3VL):
    """`qwen3_vl_moe`: Qwen3VLMoeForConditionalGeneration."""
