"""Qwen2.5-VL's processor for pictures alone: its video half needs torchvision, which many machines lack."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveate.errors import FoveateError

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"


class StillProcessor(Qwen2_5_VLProcessor):
    """Gives what `Qwen2_5_VLProcessor` gives for text and pictures, and refuses videos."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None) -> None:
        self.image_processor, self.tokenizer, self.video_processor = image_processor, tokenizer, None
        self.chat_template = chat_template or tokenizer.chat_template
        self.image_token, self.video_token = IMAGE, VIDEO
        self.image_token_id, self.video_token_id = map(tokenizer.convert_tokens_to_ids, (IMAGE, VIDEO))
        # What the parent's constructor would set after asking for a video processor.
        self.image_ids, self.video_ids, self.audio_ids = [self.image_token_id], [self.video_token_id], [None]

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> Any:
        """As the parent.

        Raises:
            FoveateError: there are videos.
        """
        if videos is not None:
            raise FoveateError("videos need Qwen's own processor, and that torchvision: pip install torchvision")
        return super().__call__(images=images, text=text, **kwargs)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Its parts."""
        return ["image_processor", "tokenizer"]


def load_still(source: str) -> StillProcessor:
    """The processor of a folder or hub id."""
    return StillProcessor(Qwen2VLImageProcessorPil.from_pretrained(source), AutoTokenizer.from_pretrained(source))
