"""The second instrument as a configuration: Qwen2.5-VL's shape, on the first one's world, pictures and words."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from foveate.tiny.anatomy import untrained
from foveate.tiny.branches import LLAVA, Frame
from foveate.tiny.vocabulary import BOS, EOS, GRID, PAD, PATCH, WORDS

MERGE = 2
SIDE = GRID // MERGE
"""Visual tokens a side: 12, so 144 after the merger."""
WINDOW = 8
"""Side of an attention window in patches."""
START, END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
VOCABULARY = (*WORDS, START, END, IMAGE, VIDEO)
"""The first instrument's words at the same ids, then Qwen's marks."""
_ID = {word: i for i, word in enumerate(VOCABULARY)}

FRAME = Frame(head=(*LLAVA.head, _ID[START]), tail=(_ID[END],), side=SIDE, axial=True)

VISION: dict[str, Any] = {
    "depth": 6,
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_heads": 4,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": 2,
    "window_size": WINDOW * PATCH,
    "fullatt_block_indexes": [1, 3, 5],
    "out_hidden_size": 256,
}
LANGUAGE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    # With Qwen's own 1,000,000 and sections of (8, 12, 12) no column of so small a grid would turn a channel by a
    # hundredth: the first channels tell time, rows and columns apart, and those that turn slowly stay for content.
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0, "mrope_section": [2, 3, 27]},
    "tie_word_embeddings": True,
    "bos_token_id": _ID[BOS],
    "eos_token_id": _ID[EOS],
    "pad_token_id": _ID[PAD],
}


def build_qwen(attention: str = "sdpa") -> Any:
    """An untrained Qwen2.5-VL, float32, drawn from torch's global generator."""
    config: Any = Qwen2_5_VLConfig(
        vision_config=dict(VISION),
        text_config=dict(LANGUAGE),
        image_token_id=_ID[IMAGE],
        video_token_id=_ID[VIDEO],
        vision_start_token_id=_ID[START],
        vision_end_token_id=_ID[END],
        tie_word_embeddings=True,
    )
    return untrained(Qwen2_5_VLForConditionalGeneration, config, attention)
