"""Folders of tiny random models with processors of their own, for the families that have no trained instrument."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
)

VOCAB, IMAGE, VIDEO, START, END = 120, 110, 111, 112, 113
NAMES = ("internvl", "llava_next", "llava_onevision", "qwen2_vl", "qwen3_vl")
TEXT = dict(
    vocab_size=VOCAB, hidden_size=128, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    tie_word_embeddings=False,
)  # fmt: skip
TILE = dict(
    hidden_size=64, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=4
)
PINPOINTS = [[32, 64], [64, 32], [64, 64]]
IDS = dict(image_token_id=IMAGE, video_token_id=VIDEO)
QWEN = IDS | dict(vision_start_token_id=START, vision_end_token_id=END, tie_word_embeddings=False)
ROPE = dict(rope_type="default", rope_theta=10000.0, mrope_section=[4, 6, 6])
PACKED = dict(depth=3, num_heads=2, spatial_merge_size=2, temporal_patch_size=2, patch_size=8, in_channels=3)
SQUARE = dict(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
SPECIAL = {
    "internvl": ("<IMG_CONTEXT>", "<video>", "<img>", "</img>"),
    "llava_next": ("<image>", "<video>", "<i>", "</i>"),
    "llava_onevision": ("<image>", "<video>", "<i>", "</i>"),
    "qwen2_vl": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
    "qwen3_vl": ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"),
}
TEMPLATE = (
    "{% for m in messages %}user {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}answer{% endif %}"
)


def config(name):
    clip = TILE | dict(projection_dim=64)
    match name:
        case "llava_next":
            return LlavaNextConfig(
                vision_config=CLIPVisionConfig(**clip), text_config=LlamaConfig(**TEXT), image_grid_pinpoints=PINPOINTS,
                image_seq_length=64, image_token_id=IMAGE, tie_word_embeddings=False,
            )  # fmt: skip
        case "llava_onevision":
            return LlavaOnevisionConfig(
                vision_config=SiglipVisionConfig(**TILE, vision_use_head=False), text_config=Qwen2Config(**TEXT),
                image_grid_pinpoints=PINPOINTS, vision_feature_layer=-1, vision_feature_select_strategy="full",
                vision_aspect_ratio="anyres_max_9", tie_word_embeddings=False, **IDS,
            )  # fmt: skip
        case "internvl":
            tower = TILE | dict(image_size=[32, 32], patch_size=[4, 4], use_qk_norm=True)
            return InternVLConfig(
                vision_config=InternVLVisionConfig(**tower), text_config=Qwen2Config(**TEXT), image_seq_length=16,
                downsample_ratio=0.5, image_token_id=IMAGE, tie_word_embeddings=False,
            )  # fmt: skip
        case "qwen2_vl":
            tower = PACKED | dict(embed_dim=64, hidden_size=128, mlp_ratio=2)
            return Qwen2VLConfig(text_config=TEXT | {"rope_parameters": ROPE}, vision_config=tower, **QWEN)
        case "qwen3_vl":
            tower = PACKED | dict(
                hidden_size=64, out_hidden_size=128, intermediate_size=64, num_position_embeddings=64,
                deepstack_visual_indexes=[0, 1],
            )  # fmt: skip
            text = TEXT | {"rope_parameters": ROPE | {"mrope_interleaved": True}, "head_dim": 32}
            return Qwen3VLConfig(text_config=text, vision_config=tower, **QWEN)
    raise KeyError(name)


def tokenizer(name):
    special = dict(zip((IMAGE, VIDEO, START, END), SPECIAL[name], strict=True))
    words = ["<pad>", "<s>", "</s>", "user", "answer", "<unk>", *(f"w{i}" for i in range(6, VOCAB))]
    words = [special.get(i, w) for i, w in enumerate(words)]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    out = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=list(special.values()), padding_side="left",
    )  # fmt: skip
    image, video, start, end = special.values()
    out.image_token, out.video_token = image, video
    if name == "internvl":
        names = ("start_image_token", "end_image_token", "context_image_token", "video_token")
        for key, value in zip(names, (start, end, image, video), strict=True):
            setattr(out, key, value)
            setattr(out, key + "_id", out.convert_tokens_to_ids(value))
        out._set_model_specific_special_tokens({k: getattr(out, k) for k in names})
    return out


def processor(name):
    words, image = tokenizer(name), SPECIAL[name][0]
    before, after = SPECIAL[name][2:] if name.startswith("qwen") else ("", "")
    template = TEMPLATE.replace("PICTURE", f"{before} {image} {after}".strip())
    small = dict(min_pixels=16 * 16, max_pixels=128 * 128, patch_size=8, merge_size=2, temporal_patch_size=2)
    match name:
        case "llava_next":
            pictures = LlavaNextImageProcessor(
                size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS
            )
            return LlavaNextProcessor(
                pictures, words, patch_size=4, vision_feature_select_strategy="default", image_token=image,
                num_additional_image_tokens=1, chat_template=template,
            )  # fmt: skip
        case "llava_onevision":
            pictures = LlavaOnevisionImageProcessor(**SQUARE, image_grid_pinpoints=PINPOINTS)
            return LlavaOnevisionProcessor(
                pictures, words, LlavaOnevisionVideoProcessor(**SQUARE), num_image_tokens=64,
                vision_feature_select_strategy="full", image_token=image, chat_template=template,
            )  # fmt: skip
        case "internvl":
            pictures = GotOcr2ImageProcessor(**SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
            return InternVLProcessor(
                pictures, words, InternVLVideoProcessor(**SQUARE), image_seq_length=16, chat_template=template
            )
        case "qwen2_vl":
            return Qwen2VLProcessor(
                Qwen2VLImageProcessor(**small), words, Qwen2VLVideoProcessor(**small), chat_template=template
            )
        case "qwen3_vl":
            return Qwen3VLProcessor(
                Qwen2VLImageProcessor(**small), words, Qwen3VLVideoProcessor(**small), chat_template=template
            )
    raise KeyError(name)


def write(name: str, folder: Path) -> Path:
    """A model with lively weights, under the names that checkpoints have on the hub."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config(name)).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=draw) * (0.9 / p.shape[-1] ** 0.5))
            elif p.abs().sum() == 0:
                p.copy_(torch.randn(p.shape, generator=draw) * 0.1)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor(name).save_pretrained(folder)
    if name.startswith("llava"):
        file = folder / "model.safetensors"
        where = "vision_tower."
        old = load_file(file)
        new = {k.replace(where, where + "vision_model.", 1) if where in k else k: t for k, t in old.items()}
        save_file(new, file, metadata={"format": "pt"})
    return folder
