"""The second instrument's tokenizer and processor, from the first one's vocabulary and Qwen's marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveate.tiny.inputs import MEAN, STD
from foveate.tiny.processing import TEMPLATE, build_tokenizer
from foveate.tiny.qwen.anatomy import END, IMAGE, MERGE, START, VIDEO
from foveate.tiny.vocabulary import PATCH, SIZE

PROMPT = f"USER: {START}{IMAGE}{END} {{question}} ASSISTANT:"
"""What the chat template makes of an image and a question."""
QWEN_TEMPLATE = TEMPLATE.replace("<image>", START + IMAGE + END)
_MARKS = (START, END, IMAGE, VIDEO)


class Processor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video half, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        self.image_token, self.video_token = IMAGE, VIDEO
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO)
        self.image_processor, self.tokenizer, self.chat_template = image_processor, tokenizer, chat_template
        self.video_processor = None
        self.image_ids, self.video_ids, self.audio_ids = [self.image_token_id], [self.video_token_id], [None]

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Its parts."""
        return ["image_processor", "tokenizer"]


def build_processor(tokenizer: Any = None) -> Processor:
    """A processor that scales every picture to 192 x 192, as the model was trained."""
    whole = SIZE * SIZE
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": whole, "longest_edge": whole},
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return Processor(images, tokenizer or build_marked_tokenizer(), QWEN_TEMPLATE)


def build_marked_tokenizer() -> PreTrainedTokenizerFast:
    """The first instrument's tokenizer, with Qwen's marks after its words."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(_MARKS)}, replace_extra_special_tokens=False)
    return tokenizer


def save_processor(folder: Path) -> None:
    """Write what `AutoProcessor` (with torchvision) or `foveate.tiny.qwen.load` (without) reads."""
    processor = build_processor()
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(QWEN_TEMPLATE)
