"""Qwen3-VL: as Qwen2-VL, with DeepStack: tower features of earlier blocks are added to the first decoder layers."""

from foveate.hf.families.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """`qwen3_vl`: Qwen3VLForConditionalGeneration."""

    model_type = "qwen3_vl"
    note = (
        "DeepStack planes are cut with the tokens. Video frames stand apart in the prompt and are pruned as one video."
    )
