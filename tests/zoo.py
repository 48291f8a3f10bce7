"""Tiny models of every family, built from config objects, and prompts for them: any mix of texts and images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen3VLConfig,
    SiglipVisionConfig,
)

from foveate.geometry.base import Kind
from foveate.hf.families import FAMILIES

DEPTH = 4
VOCAB = 120
BOS, EOS, PAD, IMAGE, VIDEO, START, END = 1, 2, 0, 110, 111, 112, 113
TEXT = dict(
    vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=DEPTH, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD,
    tie_word_embeddings=False,
)  # fmt: skip
CLIP = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, projection_dim=16)
NAMES = ["internvl", "llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"]
NO_CLS = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def config(name: str) -> Any:
    common = dict(image_token_id=IMAGE, tie_word_embeddings=False)
    mrope = dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2])
    vision = dict(spatial_merge_size=2, temporal_patch_size=2, patch_size=4, in_channels=3)
    qwen = common | dict(
        video_token_id=VIDEO, vision_start_token_id=START, vision_end_token_id=END, bos_token_id=BOS, eos_token_id=EOS
    )
    match name:
        case "llava":
            tower = CLIPVisionConfig(**CLIP, image_size=24, patch_size=4)
            return LlavaConfig(vision_config=tower, text_config=LlamaConfig(**TEXT), image_seq_length=36, **common)
        case "llava_next":
            tower = CLIPVisionConfig(**CLIP, image_size=16, patch_size=4)
            return LlavaNextConfig(
                vision_config=tower,
                text_config=LlamaConfig(**TEXT),
                image_grid_pinpoints=PINPOINTS,
                image_seq_length=16,
                **common,
            )
        case "llava_onevision":
            tower = SiglipVisionConfig(
                **CLIP | {"projection_dim": None}, image_size=16, patch_size=4, vision_use_head=False
            )
            return LlavaOnevisionConfig(
                vision_config=tower, text_config=Qwen2Config(**TEXT), image_grid_pinpoints=PINPOINTS,
                video_token_id=VIDEO, vision_feature_layer=-1,
                vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_4", **common,
            )  # fmt: skip
        case "internvl":
            tower = InternVLVisionConfig(
                hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=[32, 32],
                patch_size=[4, 4], use_qk_norm=True,
            )  # fmt: skip
            return InternVLConfig(
                vision_config=tower,
                text_config=Qwen2Config(**TEXT),
                image_seq_length=16,
                downsample_ratio=0.5,
                **common,
            )
        case "qwen2_vl":
            v = vision | dict(depth=3, embed_dim=24, hidden_size=32, num_heads=2, mlp_ratio=2)
            return Qwen2VLConfig(text_config=TEXT | {"rope_parameters": mrope}, vision_config=v, **qwen)
        case "qwen2_5_vl":
            v = vision | dict(
                depth=3, hidden_size=24, out_hidden_size=32, intermediate_size=32, num_heads=2, window_size=16,
                fullatt_block_indexes=[1],
            )  # fmt: skip
            return Qwen2_5_VLConfig(text_config=TEXT | {"rope_parameters": mrope}, vision_config=v, **qwen)
        case "qwen3_vl":
            v = vision | dict(
                depth=3, hidden_size=24, out_hidden_size=32, intermediate_size=32, num_heads=2,
                num_position_embeddings=64, deepstack_visual_indexes=[0, 1],
            )  # fmt: skip
            return Qwen3VLConfig(text_config=TEXT | {"rope_parameters": mrope, "head_dim": 8}, vision_config=v, **qwen)
    raise KeyError(name)


PINPOINTS = [[16, 32], [32, 16], [32, 32], [16, 48], [48, 16], [48, 48]]
SIZES = {
    "llava": [(24, 24)],
    "llava_next": [(16, 16), (32, 16), (20, 31), (40, 13), (30, 30)],
    "llava_onevision": [(16, 16), (32, 16), (20, 31), (48, 45)],
    "internvl": [1, 2, 3],
} | {name: [(16, 16), (16, 32), (24, 40), (32, 32)] for name in QWEN}
"""Image sizes in pixels; for InternVL, tiles."""


def build(name: str, kernel: str = "sdpa", seed: int = 0, **other: Any) -> Any:
    """A fresh model with lively weights; `other` settings of its config."""
    torch.manual_seed(seed)
    made = config(name)
    for key, value in other.items():
        setattr(made, key, value)
    model = AutoModelForImageTextToText.from_config(made, attn_implementation=kernel).eval()
    return lively(model, seed)


def lively(model: Any, seed: int = 0) -> Any:
    """A model with random weights: as initialised, layers hardly differ and attention is flat. It never ends by itself.

    Args:
        model: changed in place.
        seed: of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=generator) * (0.9 / p.shape[-1] ** 0.5))
            elif p.abs().sum() == 0:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model


@cache
def shared(name: str, kernel: str = "sdpa") -> Any:
    """One model a family for tests that leave it as they found it."""
    return build(name, kernel)


@dataclass
class Row:
    """One prompt: text lengths and pictures, in order. A picture here is ("image" | "video", size)."""

    parts: list[Any]
    seed: int = 0


@dataclass
class Batch:
    """Arguments for forward or generate."""

    inputs: dict[str, torch.Tensor]
    rows: list[Row] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]


def picture(name: str, kind: Kind, size: Any, seed: int) -> dict[str, torch.Tensor]:
    """Encoder arguments for one image or video, seeded."""
    g = torch.Generator().manual_seed(1000 + seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    if name in QWEN:
        frames, (h, w) = (2, size) if kind == "video" else (1, size)
        grid = torch.tensor([[frames, h // 4, w // 4]])
        pixels = noise(int(grid.prod()), 3 * 2 * 4 * 4)
        suffix = "_videos" if kind == "video" else ""
        return {f"pixel_values{suffix}": pixels, f"{kind}_grid_thw": grid}
    if name == "internvl":
        return {"pixel_values": noise(size, 3, 32, 32)}
    if name == "llava":
        return {"pixel_values": noise(1, 3, 24, 24)}
    if kind == "video":
        return {"pixel_values_videos": noise(1, size, 3, 16, 16)}
    sizes = torch.tensor([size])
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    n = image_size_to_num_patches(sizes[0], PINPOINTS, 16)
    return {"pixel_values": noise(1, n, 3, 16, 16), "image_sizes": sizes}


Shown = tuple[dict[str, torch.Tensor], list[list[int]], int]
"""A picture's encoder arguments, its tokens run by run, and its code among `mm_token_type_ids`."""


def side_by_side(
    rows: list[Row], show: Callable[[Row, int, Any], Shown], left: bool = True, lowest: int = 3
) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[list[dict[str, torch.Tensor]]]]:
    """Prompts in one batch: ids and padding mask, codes of pictures, and each prompt's pictures.

    Args:
        rows: the prompts.
        show: (prompt, number of its part, part) -> what a picture becomes.
        left: pad on the left, as `generate` wants.
        lowest: the first id that is a word.
    """
    ids, kinds, pictures = [], [], []
    for row in rows:
        g = torch.Generator().manual_seed(row.seed)
        line, kind, mine = [BOS], [0], []
        for j, part in enumerate(row.parts):
            if isinstance(part, int):
                line += torch.randint(lowest, 100, (part,), generator=g).tolist()
                kind += [0] * part
                continue
            args, stretches, code = show(row, j, part)
            mine.append(args)
            for tokens in stretches:
                line += [START, *tokens, END]
                kind += [0, *[code] * len(tokens), 0]
        ids.append(line)
        kinds.append(kind)
        pictures.append(mine)
    width = max(map(len, ids))

    def pad(lines: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[fill] * (width - len(x)) + x if left else x + [fill] * (width - len(x)) for x in lines])

    inputs = {"input_ids": pad(ids, PAD), "attention_mask": pad([[1] * len(x) for x in ids], 0)}
    return inputs, pad(kinds, 0), pictures


def batch(name: str, rows: list[Row], left: bool = True, mask: bool = True) -> Batch:
    """Put prompts side by side, padded on the left (as `generate` wants) or on the right."""
    model = shared(name)
    family = FAMILIES[name]

    def show(row: Row, j: int, part: Any) -> Shown:
        kind, size = part
        args = picture(name, kind, size, row.seed * 10 + j)
        n = sum(u.tokens for u in family.units(model.model, kind, args))
        if name == "llava_onevision" and sum(not isinstance(p, int) for p in row.parts) > 1 and kind == "image":
            # Several images in one prompt are not tiled: 16 patches and a newline each.
            n = 17
        film = kind == "video" and name != "internvl"
        stretches = 2 if name == "qwen3_vl" and film else 1
        return args, [[VIDEO if film else IMAGE] * (n // stretches)] * stretches, 1 + film

    inputs, kinds, each = side_by_side(rows, show, left)
    pictures = [args for mine in each for args in mine]
    if not mask:
        del inputs["attention_mask"]
    if name in QWEN:
        inputs["mm_token_type_ids"] = kinds
    keys = {k for args in pictures for k in args}
    for key in keys:
        values = [args[key] for args in pictures if key in args]
        if values[0].ndim == 5 and key == "pixel_values":
            most = max(v.shape[1] for v in values)
            values = [torch.nn.functional.pad(v, (0, 0) * 3 + (0, most - v.shape[1])) for v in values]
        inputs[key] = torch.cat(values)
    if name == "llava_onevision" and "image_sizes" in inputs:
        per_row = [sum(not isinstance(p, int) and p[0] == "image" for p in r.parts) for r in rows]
        if any(n > 1 for n in per_row):
            inputs["batch_num_images"] = torch.tensor([n for n in per_row if n])
    return Batch(inputs, rows)
