"""Prompts for tiny models of every type: any mix of texts and pictures, and what each type calls its pictures."""

import inspect
from typing import Any

import torch
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from alltypes.tiny import VARIANTS
from zoo import Row, Shown, side_by_side

SIDE = {
    "got_ocr2": 64,
    "pp_chart2table": 64,
    "deepseek_ocr2": 64,
    "step3p7": 48,
    "granite_docling": 32,
} | dict.fromkeys([v for v in VARIANTS if v.startswith("internvl")], 32)
"""Pixels of one side, where they are not 16."""
SIZED = ("apertus1p5", "emu3", "lighton_ocr", "mistral3", "mistral_large4", "pixtral")
"""Pictures of any size, padded to one, with their sizes."""
TILED = ("granite4_vision", "llava_next", "llava_next_video")
NESTED = ("granite_docling", "idefics2", "idefics3", "smolvlm")
"""Pictures of a prompt in a dimension of their own."""
GRID = (
    "cohere_compass", "cosmos3_edge", "cosmos3_omni", "dots3_note", "ernie4_5_vl_moe", "exaone4_5", "glm46v",
    "glm4v", "glm4v_moe", "glm5_next", "glm_ocr", "glmga", "hunyuan_vl", "hy_v4_vl", "hyperclovax_vision_v2",
    "inkling2", "inkling2_loop", "kimi_k25", "lfm3_vl", "minimax_m3_vl", "muse_glimmer", "muse_spark",
    "paddleocr_vl", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe",
    "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe", "qwen4_exp", "video_llama_3",
)  # fmt: skip
"""Packed patches, with frames, rows and columns of each picture."""
PADDED = ("gemma4", "gemma4_unified", "lfm2_vl")
"""Patches of each picture padded to one number."""
MINICPM = ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7")


def sizes(name: str) -> list[Any]:
    """Sizes of pictures that a type can tell apart: in pixels, or in patches."""
    if name in GRID or name == "nemotron_h_omni":
        return [(4, 4), (4, 8), (6, 10)]
    if name in MINICPM:
        return [(4, 4), (4, 8), (8, 8)]
    if name in SIZED:
        return [(16, 16), (16, 32), (32, 24)]
    if name in TILED:
        return [(16, 16), (16, 32), (30, 30)]
    return [(4, 4), (4, 6), (2, 8)] if name in PADDED else [()]


def picture(name: str, config: Any, size: Any, seed: int) -> dict[str, torch.Tensor]:
    """Encoder arguments of one picture, seeded."""
    g = torch.Generator().manual_seed(1000 + seed)
    side = SIDE.get(name, 16)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    if name in GRID:
        v, (h, w) = config.vision_config, size
        frames = getattr(v, "temporal_patch_size", getattr(v, "patch_temporal", 1)) or 1
        shape: tuple[int, ...] = (3 * frames * v.patch_size**2,)
        if name in ("kimi_k25", "paddleocr_vl"):
            shape = (3, v.patch_size, v.patch_size)
        elif name in ("inkling2", "inkling2_loop"):
            shape = (8, 8, 3)
        out = {"pixel_values": noise(h * w, *shape), "image_grid_thw": torch.tensor([[1, h, w]])}
        return out | ({"image_merge_sizes": torch.tensor([2])} if name == "video_llama_3" else {})
    if name in SIZED:
        return {"pixel_values": noise(1, 3, *size), "image_sizes": torch.tensor([size])}
    if name in TILED:
        n = image_size_to_num_patches(torch.tensor(size), config.image_grid_pinpoints, 16)
        return {"pixel_values": noise(1, n, 3, 16, 16), "image_sizes": torch.tensor([size])}
    if name in MINICPM:
        return {"pixel_values": noise(1, 3, 4, size[0] * size[1] * 4), "target_sizes": torch.tensor([size])}
    if name == "lfm2_vl":
        mask = (torch.arange(24) < size[0] * size[1]).long()[None]
        values = {"pixel_values": noise(1, 24, 48), "pixel_attention_mask": mask}
        return values | {"spatial_shapes": torch.tensor([size])}
    if name in PADDED:
        h, w = size
        place = torch.full((1, 24, 2), -1)
        place[0, : h * w] = torch.cartesian_prod(torch.arange(h), torch.arange(w)).flip(1)
        return {"pixel_values": torch.rand(1, 24, 48, generator=g), "image_position_ids": place}
    match name:
        case "nemotron_h_omni":
            return {"pixel_values": noise(size[0] * size[1], 48), "image_grid_hw": torch.tensor([size])}
        case "molmo2":
            pool = torch.arange(16).view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
            grids = torch.tensor([[2, 2, 0, 0]])
            return {"pixel_values": noise(1, 16, 48), "image_token_pooling": pool, "image_grids": grids}
        case "inkling_mm_model":
            return {"pixel_values": noise(6, 2, 8, 8, 3)}
        case "fuyu":
            return {"pixel_values": noise(1, 6, 30 * 30 * 3)}
        case "video_llava":
            return {"pixel_values_images": noise(1, 3, side, side)}
        case "deepseek_vl_hybrid":
            return {"pixel_values": noise(1, 3, side, side), "high_res_pixel_values": noise(1, 3, 64, 64)}
    nested = name in NESTED or name == "perception_lm"
    return {"pixel_values": noise(*([1] * nested), 1, 3, side, side)}


def together(name: str, rows: list[list[dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """Pictures of several prompts as one call takes them."""
    flat = [p for row in rows for p in row]
    if name in NESTED:
        most = max(map(len, rows))
        pixels = torch.zeros(len(rows), most, *flat[0]["pixel_values"].shape[2:])
        for i, row in enumerate(rows):
            for j, p in enumerate(row):
                pixels[i, j] = p["pixel_values"][0, 0]
        if name != "granite_docling":
            return {"pixel_values": pixels}
        there = torch.arange(most) < torch.tensor([len(row) for row in rows])[:, None]
        return {"pixel_values": pixels, "pixel_attention_mask": there}
    out = {}
    for key in flat[0]:
        values = [p[key] for p in flat]
        if key == "pixel_values" and name in TILED:
            most = max(v.shape[1] for v in values)
            values = [torch.nn.functional.pad(v, (0, 0) * 3 + (0, most - v.shape[1])) for v in values]
        elif key == "pixel_values" and name in SIZED:
            h, w = (max(v.shape[d] for v in values) for d in (2, 3))
            values = [torch.nn.functional.pad(v, (0, w - v.shape[3], 0, h - v.shape[2])) for v in values]
        elif key == "image_token_pooling":
            values = [v + 16 * i for i, v in enumerate(values)]
        out[key] = torch.cat(values, -1 if key == "pixel_values" and name in MINICPM else 0)
    return out


def base(model: Any) -> Any:
    """The module that encodes."""
    inner = getattr(model, "model", None)
    return inner if hasattr(inner, "get_image_features") else model


def count(name: str, model: Any, args: dict[str, torch.Tensor]) -> int:
    """Tokens of a picture, as its encoder gives them."""
    encode = base(model).get_image_features
    names = inspect.signature(encode).parameters
    given = {k: v for k, v in args.items() if k in names}
    if "pixel_values_images" in args:
        given["pixel_values" if "pixel_values" in names else "pixel_values_images"] = args["pixel_values_images"]
    for k in ("vision_feature_layer", "vision_feature_select_strategy"):
        if k in names and getattr(base(model).config, k, None) is not None:
            given[k] = getattr(base(model).config, k)
    with torch.no_grad():
        out = encode(**given, return_dict=True)
    features = getattr(out, "pooler_output", None)
    if features is None and getattr(out, "deepstack_features", None) is not None:
        features = out.deepstack_features[0][1]
    if features is None:
        features = out.last_hidden_state
    each = features if isinstance(features, list | tuple) else [features]
    return sum(x.shape[:-1].numel() for x in each)


def batch(name: str, model: Any, rows: list[Row]) -> dict[str, torch.Tensor]:
    """Prompts side by side, padded on the left."""

    def show(row: Row, j: int, part: Any) -> Shown:
        args = picture(name, model.config, part, row.seed * 10 + j)
        return args, [[model.config.image_token_id] * count(name, model, together(name, [[args]]))], 1

    inputs, kinds, pictures = side_by_side(rows, show, lowest=4)
    takes = inspect.signature(base(model).forward).parameters
    for key in ("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids"):
        if key in takes and name != "inkling_mm_model":
            inputs[key] = kinds * (name != "paligemma")
    if any(pictures):
        inputs |= together(name, pictures if name in NESTED else [p for p in pictures if p])
    return inputs


def single(name: str, model: Any) -> dict[str, torch.Tensor]:
    """One prompt with the type's largest picture."""
    return batch(name, model, [Row([3, sizes(name)[-1], 9], 5)])


def mixed(name: str, model: Any) -> list[Row]:
    """A text-only prompt, one picture, and two of other sizes: the longest prompt is not the longest once it is cut."""
    s = sizes(name)
    long = Row([2, s[0], 1, s[-1], 8], 3)
    words = batch(name, model, [long])["input_ids"].shape[1] - 4
    return [Row([words], 1), Row([3, s[-1], 11], 2), long]
