"""The second instrument's tokenizer and processor, from the first one's vocabulary and Qwen's marks."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveate.engines.still import StillProcessor
from foveate.tiny.inputs import MEAN, STD
from foveate.tiny.processing import TEMPLATE, build_tokenizer
from foveate.tiny.vocabulary import PATCH, SIZE
from instruments.qwen.anatomy import END, IMAGE, MERGE, START, VIDEO

PROMPT = f"USER: {START}{IMAGE}{END} {{question}} ASSISTANT:"
"""What the chat template makes of an image and a question."""
QWEN_TEMPLATE = TEMPLATE.replace("<image>", START + IMAGE + END)
_MARKS = (START, END, IMAGE, VIDEO)


def build_processor() -> StillProcessor:
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
    return StillProcessor(images, build_marked_tokenizer(), QWEN_TEMPLATE)


def build_marked_tokenizer() -> PreTrainedTokenizerFast:
    """The first instrument's tokenizer, with Qwen's marks after its words."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(_MARKS)}, replace_extra_special_tokens=False)
    return tokenizer


def save_processor(folder: Path) -> None:
    """Write what `AutoProcessor` (with torchvision) or `instruments.qwen.load` (without) reads."""
    processor = build_processor()
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(QWEN_TEMPLATE)
