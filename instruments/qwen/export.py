"""From training weights to a checkpoint folder in the hub's format: weights, processor, curves and their sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from instruments.llava.export import write_curves, write_sums
from instruments.llava.stage import Curve
from instruments.qwen.processing import save_processor


def export(model: Any, curves: dict[str, Curve], folder: Path) -> None:
    """Write everything that `instruments.qwen.load` needs; the sums come last, so half a folder does not verify."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    save_processor(folder)
    write_curves(curves, folder)
    write_sums(folder)
