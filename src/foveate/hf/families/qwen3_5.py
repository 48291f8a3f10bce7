"""Qwen3.5: Qwen3-VL's tower without DeepStack, before a decoder of which most layers are recurrent."""

from foveate.geometry.qwen import Qwen35Geometry, Qwen35MoeGeometry
from foveate.hf.families.qwen2_vl import Qwen2VL


class Qwen35(Qwen35Geometry, Qwen2VL):
    """`qwen3_5`: Qwen3_5ForConditionalGeneration."""

    note = "What is dropped before a recurrent layer leaves no trace in its state, as if it had never been sent."


class Qwen35Moe(Qwen35MoeGeometry, Qwen35):
    """`qwen3_5_moe`: Qwen3_5MoeForConditionalGeneration."""
