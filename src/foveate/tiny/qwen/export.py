"""From training weights to a checkpoint folder in the hub's format: weights, processor, curves and their sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from foveate.tiny.qwen.processing import save_processor
from foveate.tiny.train.export import write_curves, write_sums
from foveate.tiny.train.stage import Curve


def export(model: Any, curves: dict[str, Curve], folder: Path) -> None:
    """Write everything that `foveate.tiny.qwen.load` needs; the sums come last, so half a folder does not verify."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    save_processor(folder)
    write_curves(curves, folder)
    write_sums(folder)
