"""Where the second instrument's checkpoint is, and how to load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from foveate.tiny.checkpoint import verify


def load(folder: Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """The trained model in eval mode and its processor, ready to `generate`; no torchvision is needed.

    Args:
        folder: a checkpoint of this anatomy.
        device: where the weights go; None is the CPU.
        dtype: None is float32, whatever the file holds (bfloat16).

    Raises:
        FoveateError: a file is missing or damaged.
    """
    from transformers import AutoModelForImageTextToText

    from foveate.engines.still import load_still

    verify(folder)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype or torch.float32, local_files_only=True
    )
    return model.to(device or "cpu").eval(), load_still(str(folder))
