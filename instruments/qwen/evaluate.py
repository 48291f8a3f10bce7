"""`python -m instruments.qwen.evaluate --out FILE`: the second instrument, by the first one's measures."""

from __future__ import annotations

from pathlib import Path

import torch

from foveate.tiny import evaluate
from foveate.tiny.asking import Opened
from instruments.qwen.anatomy import FRAME
from instruments.qwen.checkpoint import load
from instruments.qwen.look import look

FOLDER = Path(__file__).parents[1] / "qwen2_5_vl"


def instrument(folder: Path | None = None, dtype: torch.dtype = torch.bfloat16) -> Opened:
    """The model in `folder`, or the one in the repository; how it sees scenes; and its prompt.

    Raises:
        FoveateError: a file is missing or damaged.
    """
    model, _ = load(folder or FOLDER, dtype=dtype)
    return model, lambda scenes: look(model, scenes), FRAME


if __name__ == "__main__":
    evaluate.main("instruments.qwen.evaluate", instrument)
