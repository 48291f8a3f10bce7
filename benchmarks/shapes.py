"""Models by their shapes alone, with random weights, and prompts for them: what sets the time is all there."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
)

from foveate.bench.asking import size_of
from foveate.bench.downsample import fewer_patches
from foveate.bench.ways import Way
from foveate.engines.loading import Engine, Facts
from foveate.engines.prompting import Prompt

TEXT = 64
"""Words beside the image: a short system prompt and a question."""


@dataclass(frozen=True)
class Shape:
    """A model and its image.

    Args:
        config: the model's.
        grid: rows and columns of patches, as the tower sees them.
        merge: patches along a side of one token.
    """

    config: Callable[[], Any]
    grid: tuple[int, int]
    merge: int = 1


def clip(**kind: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(**{"image_size": 336, "patch_size": 14, "projection_dim": 768} | kind)


def llava_7b(side: int = 336) -> LlavaConfig:
    tower = clip(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=side
    )
    text = LlamaConfig(vocab_size=32064, max_position_embeddings=4096)  # the defaults are Llama-7B's
    return LlavaConfig(vision_config=tower, text_config=text, image_token_id=32000, tie_word_embeddings=False)


def llava_half_b() -> LlavaConfig:
    """Qwen2-0.5B's decoder behind a small tower, so that the decoder is what is timed."""
    tower = clip(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4)
    text = Qwen2Config(
        hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
        vocab_size=151_936, tie_word_embeddings=True, use_sliding_window=False,
    )  # fmt: skip
    return LlavaConfig(vision_config=tower, text_config=text, image_token_id=151_000, tie_word_embeddings=True)


def llava_smoke() -> LlavaConfig:
    tower = clip(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    text = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, vocab_size=1000
    )
    return LlavaConfig(vision_config=tower, text_config=text, image_token_id=900, tie_word_embeddings=False)


def qwen_ids(start: int) -> dict[str, Any]:
    """Special ids in the order of Qwen's own tokenizer."""
    names = ("vision_start_token_id", "vision_end_token_id", "vision_pad_token_id", "image_token_id", "video_token_id")
    ids = {n: start + i for i, n in enumerate(names) if n != "vision_pad_token_id"}
    return ids | {"tie_word_embeddings": False}


def qwen_7b() -> Qwen2_5_VLConfig:
    text = dict(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        vocab_size=152_064, max_position_embeddings=32_768, tie_word_embeddings=False, use_sliding_window=False,
        rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24]),
    )  # fmt: skip
    vision = dict(
        depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584, patch_size=14,
        window_size=112, fullatt_block_indexes=[7, 15, 23, 31], in_channels=3, spatial_merge_size=2,
        temporal_patch_size=2,
    )  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **qwen_ids(151_652))


def qwen_smoke() -> Qwen2_5_VLConfig:
    text = dict(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=1000, max_position_embeddings=4096, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 3, 3]),
    )  # fmt: skip
    vision = dict(
        depth=2, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64, patch_size=14, window_size=112,
        fullatt_block_indexes=[1], in_channels=3, spatial_merge_size=2, temporal_patch_size=2,
    )  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **qwen_ids(900))


SHAPES = {
    "llava-1.5-7b": Shape(llava_7b, (24, 24)),
    "qwen2.5-vl-7b": Shape(qwen_7b, (72, 72), 2),
    "llava-1.5-7b-large": Shape(partial(llava_7b, 756), (54, 54)),
    "qwen2.5-vl-7b-large": Shape(qwen_7b, (80, 200), 2),
    "llava-0.5b": Shape(llava_half_b, (24, 24)),
    "llava-smoke": Shape(llava_smoke, (24, 24)),
    "qwen-smoke": Shape(qwen_smoke, (24, 24), 2),
}
"""1008 x 1008 pixels are 72 x 72 patches and 1296 tokens to Qwen2.5-VL; LLaVA-1.5 has 576. The large ones are as
long as LLaVA-NeXT's 2880 tokens (one picture of 2916, not five tiles), and 4000."""


def build(name: str, device: str, dtype: torch.dtype) -> Engine:
    """The model, made where it will run: 7B parameters in float32 would not fit beside themselves."""
    config = SHAPES[name].config()
    kind = Qwen2_5_VLForConditionalGeneration if config.model_type == "qwen2_5_vl" else LlavaForConditionalGeneration
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = kind(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return Engine(model.to(dtype), None, Facts(name, config.model_type, config.get_text_config().num_hidden_layers))


def prompt(engine: Engine, name: str, batch: int, grid: tuple[int, int] | None = None) -> Prompt:
    """`batch` prompts of TEXT words and one image of noise each."""
    shape, model = SHAPES[name], engine.model
    rows, columns = grid or shape.grid
    tokens = rows * columns // shape.merge**2
    g = torch.Generator().manual_seed(0)
    words = torch.randint(10, 800, (batch, TEXT), generator=g)
    image = torch.full((batch, tokens), model.config.image_token_id)
    ids = torch.cat((words[:, :5], image, words[:, 5:]), 1)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.model_type == "qwen2_5_vl":
        side = model.config.vision_config.patch_size
        inputs["pixel_values"] = torch.randn(batch * rows * columns, 3 * 2 * side * side, generator=g)
        inputs["image_grid_thw"] = torch.tensor([[1, rows, columns]] * batch)
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).long()
    else:
        side = model.config.vision_config.patch_size
        inputs["pixel_values"] = torch.randn(batch, 3, rows * side, columns * side, generator=g)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return Prompt({k: v.to(model.device) for k, v in inputs.items()}, 5)


def smaller(engine: Engine, name: str, whole: Prompt) -> Callable[[Way], Prompt]:
    """The same prompts about smaller images."""
    shape = SHAPES[name]
    batch = len(whole.inputs["input_ids"])

    def shrink(way: Way) -> Prompt:
        cut = size_of(way)
        if shape.merge == 1:
            return fewer_patches(engine, whole, cut)
        side = max(1, round(cut.count(shape.grid[0] * shape.grid[1] // shape.merge**2) ** 0.5))
        return prompt(engine, name, batch, (side * shape.merge, side * shape.merge))

    return shrink
