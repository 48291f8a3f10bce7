"""A tiny random model of every type of image and text that transformers knows, shrunk from the type's default config.

`shrunk.json` holds what cannot be guessed: for each type, what its config says besides, sub-config by sub-config ("-"
takes a key away). A type that transformers has and nobody has tried fails in `test_types.py`, by name.
"""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, MoeCausalLMOutputWithPast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as MODELS
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from zoo import BOS, DEPTH, END, EOS, IMAGE, PAD, START, VIDEO, VOCAB, lively

TYPES = sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
AUDIO, OTHER, WINDOW = 114, 115, 9
TEXT = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": DEPTH,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
    "sliding_window": WINDOW, "attention_chunk_size": WINDOW, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1,
    "shared_expert_intermediate_size": 16, "shared_experts_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "qk_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "moe_num_experts": 4,
    "moe_topk": 2, "moe_num_shared_experts": 1, "intermediate_size_mlp": 48, "index_n_heads": 2, "index_head_dim": 8,
    "index_topk": 4096, "block_size": 8, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
    "tie_word_embeddings": False, "attention_dropout": 0.0,
}  # fmt: skip
VISION = {
    "hidden_size": 24, "embed_dim": 24, "intermediate_size": 32, "num_hidden_layers": 2, "depth": 2,
    "num_attention_heads": 2, "num_heads": 2, "image_size": 16, "patch_size": 4, "out_hidden_size": 32,
    "num_position_embeddings": 64, "projection_dim": 16, "vision_use_head": False, "attention_dropout": 0.0,
    "mlp_ratio": 2, "init_pos_emb_height": 8, "init_pos_emb_width": 8, "text_hidden_size": 32, "head_dim": 12,
    "num_key_value_heads": 2,
}  # fmt: skip
BESIDES: dict[str, Any] = json.loads((Path(__file__).parent / "shrunk.json").read_text())
# Names of the codes that these two turn pictures into.
BESIDES["chameleon"]["vocabulary_map"] = {"<image>": IMAGE} | {
    "IMGIMG" + "".join(chr(ord("A") + int(c)) for c in str(i)) + "Z": 3 + i for i in range(32)
}
BESIDES["emu3"]["vocabulary_map"] = {f"<|visual token {i:06d}|>": 3 + i for i in range(32)} | {
    "<|extra_200|>": 60,
    "<image>": IMAGE,
}
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "internvl3_5": ("internvl", {"text_config": "qwen3"}),
    "internvl3_5_moe": ("internvl", {"text_config": "qwen3_moe"}),
    "internvl3_5_oss": ("internvl", {"text_config": "gpt_oss"}),
    "pixtral": ("llava", {"text_config": "mistral", "vision_config": "pixtral"}),
}
"""Checkpoints of a type with other parts than it has by default: (type, parts)."""
EAGER = ("hy_v4_vl", "inkling2", "inkling2_loop", "internvl3_5_oss")
"""Types that know no other attention."""
TIMM = ("fast_vlm", "gemma3n", "perception_lm")
"""Types whose tower is timm's: another stands in for it, so that their own code around it runs."""


def shrink(config: dict[str, Any], rules: dict[str, Any], depth: int) -> dict[str, Any]:
    """A config's numbers by these rules; of layer types, every kind."""
    out = dict(config)
    for key, value in config.items():
        if key in ("layer_types", "mlp_layer_types") and value:
            kinds = sorted(set(value), key=lambda k: ("full" in k or k == "hybrid", k))
            out[key] = [kinds[i % len(kinds)] for i in range(depth)]
        elif key in rules and value is not None and not isinstance(value, list | dict):
            out[key] = rules[key]
    return out


def tokens(config: dict[str, Any]) -> dict[str, Any]:
    """Special tokens, by their names."""
    starts = {"bos": BOS, "decoder": BOS, "eos": EOS, "pad": PAD}
    inside = {"start": START, "boi": START, "begin": START, "bos": START, "end": END, "eoi": END, "eos": END}
    out = dict(config)
    for key in config:
        name = key.removesuffix("_id").removesuffix("_index")
        if not name.endswith("_token") or name == key or (config[key] is None and name not in TAKEN):
            continue
        first = next((i for word, i in starts.items() if key.startswith(word)), None)
        within = next((i for word, i in inside.items() if word in key), AUDIO if "audio" in key else OTHER)
        out[key] = TAKEN.get(name, within) if first is None else first
    return out


TAKEN = {"image_token": IMAGE, "video_token": VIDEO}


def put(config: dict[str, Any], besides: dict[str, Any]) -> None:
    """What the config says besides; sub-configs are entered."""
    for key, value in besides.items():
        if value == "-":
            config.pop(key, None)
        elif key.endswith("_config") and key != "per_layer_config" and isinstance(config.get(key), dict):
            put(config[key], value)
        else:
            config[key] = value


def config(name: str, wide: bool = False) -> Any:
    """The tiny config of a type, or of a variant; `wide`: with windows longer than any prompt."""
    type_, parts = VARIANTS.get(name, (name, {}))
    kind = CONFIG_MAPPING[type_]
    d = tokens(kind().to_dict())
    d |= {part: CONFIG_MAPPING[other]().to_dict() for part, other in parts.items()}
    for key, value in d.items():
        if isinstance(value, dict) and key in ("text_config", "thinker_config", "language_config"):
            d[key] = tokens(shrink(value, TEXT, DEPTH))
        elif isinstance(value, dict) and any(word in key for word in ("vision", "vq", "image", "audio")):
            d[key] = shrink(value, VISION, 2)
    if "text_config" not in d:
        d = shrink(d, TEXT, DEPTH)
    d["tie_word_embeddings"] = False
    for key in ("transformers_version", "architectures"):
        d.pop(key, None)
    put(d, BESIDES.get(name, BESIDES.get(type_, {})))
    text = d.get("text_config", d)
    for key in ("sliding_window", "sliding_window_size", "attention_chunk_size"):
        if wide and text.get(key):
            text[key] = 4096
    return kind(**d)


def build(name: str, kernel: str | None = None, wide: bool = False) -> Any:
    """A fresh model with lively weights.

    Args:
        name: its type.
        kernel: of the language model; None is sdpa, or eager where that is all a type knows.
        wide: see `config`.
    """
    c = config(name, wide)
    kernel = kernel or ("eager" if name in EAGER else "sdpa")
    towers = ["eager"] if kernel in ("sdpa", "eager") else ["sdpa", "eager"]
    parts = ("vision", "audio", "sam", "vq", "high_res_vision", "encoder")
    tries = [kernel, *({"text_config": kernel} | {f"{part}_config": tower for part in parts} for tower in towers)]
    model = None
    with patch.object(AutoModel, "from_config", _without_timm(name, AutoModel.from_config)):
        for kernels in tries:
            try:
                torch.manual_seed(0)
                # A config anew: a try writes into it.
                model = MODELS[type(c)]._from_config(config(name, wide), attn_implementation=kernels).eval()
                break
            except (ValueError, KeyError) as e:
                # Some towers do not know every kernel, and say so or stumble.
                if kernels is tries[-1] or ("does not support an attention" not in str(e) and kernel not in str(e)):
                    raise
    return lively(model)


def empty(name: str) -> Any:
    """A model from its type's default config, without any weights."""
    kind = CONFIG_MAPPING[name]
    with torch.device("meta"):
        return MODELS[kind]._from_config(kind())


class Timm(torch.nn.Module):
    """In the place of a tower of timm's."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat, self.num_prefix_tokens = flat, 1
        self.conv = torch.nn.Conv2d(3, VISION["hidden_size"], 4, 4)

    def forward(self, pixel_values: Any = None, **_: Any) -> Any:
        x = self.conv(pixel_values)
        if self.flat:
            x = x.flatten(2).transpose(1, 2)
            x = torch.cat((x.mean(1, keepdim=True), x), 1)
        return BaseModelOutputWithPooling(last_hidden_state=x)


def _without_timm(name: str, original: Any) -> Any:
    def from_config(config: Any, *args: Any, **kwargs: Any) -> Any:
        if name in TIMM and ("timm" in type(config).__name__.lower() or config.model_type == "gemma3n_vision"):
            return Timm(flat=name == "perception_lm")
        return original(config, *args, **kwargs)

    return from_config


# Llama 4 of 5.24 reads `outputs.image_outputs`, which its own output does not have: the stock model cannot run.
if not hasattr(MoeCausalLMOutputWithPast, "image_outputs"):
    MoeCausalLMOutputWithPast.image_outputs = None
