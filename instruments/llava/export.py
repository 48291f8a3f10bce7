"""From training weights to a checkpoint folder: safetensors, processor, curves, model card and their sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from foveate.tiny.checkpoint import JOINT, SUMS, file_sum, joint_tensors
from foveate.tiny.processing import build_processor
from instruments.llava.curves import plot
from instruments.llava.stage import Curve
from instruments.llava.state import write_bytes, write_json

_NOT_SUMMED = (SUMS, "README.md", "curves.json", "curves.png", "results.json")


def export(clip: Any, model: Any, curves: dict[str, Curve], folder: Path) -> None:
    """Write everything that `foveate.tiny.load` needs, and the curves; the sums come last, so a half-written folder
    does not verify."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMS).unlink(missing_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    build_processor().save_pretrained(folder)
    write_bytes(folder / JOINT, save(joint_tensors(clip.to(torch.bfloat16)), metadata={"format": "pt"}))
    write_curves(curves, folder)
    write_sums(folder)


def write_sums(folder: Path) -> None:
    """SHA-256 of every file that loading reads."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.name not in _NOT_SUMMED)
    write_bytes(folder / SUMS, "".join(f"{file_sum(f)}  {f.name}\n" for f in files).encode())


def write_curves(curves: dict[str, Curve], folder: Path) -> None:
    """`curves.json`, and `curves.png` where matplotlib is installed."""
    rows: dict[str, Any] = dict(curves)
    write_json(folder / "curves.json", rows)
    plot(curves, folder / "curves.png")
