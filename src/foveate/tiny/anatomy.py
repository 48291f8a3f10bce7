"""The two models as configurations: a CLIP (vision and text tower) and the LLaVA that reads the same vision tower."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, LlavaConfig, LlavaForConditionalGeneration

from foveate.tiny.vocabulary import BOS, END, EOS, GRID, IMAGE, PAD, PATCH, SIZE, WORDS

FEATURE_LAYER = -2
JOINT = 128
"""Width of the space that image and text share."""
_ID = {word: i for i, word in enumerate(WORDS)}

VISION: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": PATCH,
    "hidden_act": "quick_gelu",
    "projection_dim": JOINT,
}
TEXT: dict[str, Any] = {
    "model_type": "clip_text_model",
    "vocab_size": len(WORDS),
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "projection_dim": JOINT,
    "bos_token_id": _ID[BOS],
    # transformers pools at this token, except where it is 2 (then at the largest id): so </s> cannot serve.
    "eos_token_id": _ID[END],
    "pad_token_id": _ID[PAD],
}
LANGUAGE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": len(WORDS),
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    # With the usual 10,000 most channels turn several times over 576 image tokens: finding by content is slow to learn.
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": True,
    "bos_token_id": _ID[BOS],
    "eos_token_id": _ID[EOS],
    "pad_token_id": _ID[PAD],
}


def build_clip(attention: str = "sdpa") -> Any:
    """An untrained CLIP, float32, drawn from torch's global generator."""
    config = CLIPConfig(text_config=dict(TEXT), vision_config=dict(VISION), projection_dim=JOINT)
    return CLIPModel._from_config(config, attn_implementation=attention)


def build_llava(attention: str = "sdpa", language: dict[str, Any] | None = None) -> Any:
    """An untrained LLaVA-1.5, float32; `language` replaces entries of the decoder's configuration."""
    config: Any = LlavaConfig(
        vision_config=dict(VISION),
        text_config={**LANGUAGE, **(language or {})},
        image_token_index=_ID[IMAGE],
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )
    return untrained(LlavaForConditionalGeneration, config, attention)


def untrained(kind: Any, config: Any, attention: str) -> Any:
    """A fresh VLM that speaks the world's words, of either anatomy: their first ids are the same."""
    # For foveate.attach: "ASSISTANT" and ":" close the prompt and are no question.
    config.template_tail = 2
    model = kind._from_config(config, attn_implementation=attention)
    model.generation_config.bos_token_id = _ID[BOS]
    model.generation_config.eos_token_id = _ID[EOS]
    model.generation_config.pad_token_id = _ID[PAD]
    return model


def share_tower(clip: CLIPModel, llava: LlavaForConditionalGeneration) -> None:
    """Make `clip` see through `llava`'s vision tower: the parameters become the same tensors."""
    clip.vision_model = llava.model.vision_tower


def count(module: torch.nn.Module) -> int:
    """Number of parameters; a shared one counts once."""
    return sum(p.numel() for p in module.parameters())
