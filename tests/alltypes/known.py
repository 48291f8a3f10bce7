"""Which of the types stand for all in `make test`."""

SAMPLE = (
    "aria", "gemma3", "gemma4", "glm4v", "granite4_vision", "idefics3", "internvl3_5", "lfm2_vl", "mistral3",
    "qwen3_5", "qwen3_vl_moe",
)  # fmt: skip
"""Eleven unlike types for `make test`; `make test-zoo` takes all."""
