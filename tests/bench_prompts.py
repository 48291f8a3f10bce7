"""Questions about noise, and a Qwen2.5-VL engine without weights worth anything, its processor as Qwen's."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import zoo
from foveate.data import Example
from foveate.engines.loading import Engine, Facts


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def ask(*pictures: Image.Image) -> list[Example]:
    return [Example(str(i), (p,), "what is " + "there " * i + "?") for i, p in enumerate(pictures)]


class Words:
    """A word, a token."""

    bos_token, pad_token_id = None, zoo.PAD

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [zoo.IMAGE if w == "<image>" else 3 + len(w) for w in text.split()]}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, ids))


class Processor:
    """Qwen's image processor in front, and one placeholder for each merged cell."""

    chat_template, image_token = None, "<image>"

    def __init__(self, fewest: int) -> None:
        self.tokenizer = Words()
        size = {"shortest_edge": fewest * 64, "longest_edge": 64 * 400}
        self.image_processor = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=size)

    def __call__(self, text: list[str], images: Any = None, **_: Any) -> BatchFeature:
        inputs = dict(self.image_processor(images, return_tensors="pt"))
        cells = iter((inputs["image_grid_thw"].prod(-1) // 4).tolist())
        rows = []
        for line in text:
            rows.append([])
            for token in self.tokenizer(line)["input_ids"]:
                rows[-1] += [token] * (next(cells) if token == zoo.IMAGE else 1)
        width = max(map(len, rows))
        inputs["input_ids"] = torch.tensor([[zoo.PAD] * (width - len(r)) + r for r in rows])
        inputs["attention_mask"] = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == zoo.IMAGE).long()
        return BatchFeature(inputs)


def qwen(fewest: int = 4) -> Engine:
    return Engine(zoo.build("qwen2_5_vl"), Processor(fewest), Facts("zoo", "qwen2_5_vl", zoo.DEPTH))
