"""From images and words to tensors, for those who do not go through the processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foveate.tiny.vocabulary import END

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PROMPT = "USER: <image> {question} ASSISTANT:"
"""What the chat template makes of an image and a question."""


def to_pixels(images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """What the image processor gives for images of the right size, faster: B x H x W x 3 to float B x 3 x H x W."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


def text_ids(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Token ids for the CLIP text tower, B x T, padded right: `<s>` words `<end>`. A final mark is dropped."""
    rows = [tokenizer(text.rstrip("?. ") + END)["input_ids"] for text in texts]
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])
