"""From training weights to a checkpoint folder: safetensors, processor, curves, model card and their sums."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

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
    name_as_hub(folder)
    build_processor().save_pretrained(folder)
    write_bytes(folder / JOINT, save(joint_tensors(clip.to(torch.bfloat16)), metadata={"format": "pt"}))
    write_curves(curves, folder)
    write_sums(folder)


def name_as_hub(folder: Path) -> None:
    """Give the tower's tensors the names that LLaVA has on the hub, and list what belongs to the model.

    transformers reads both ways of naming, vLLM only this one; and without an index it takes every safetensors file
    of a folder for the model's.
    """
    file, tower = folder / "model.safetensors", "vision_tower."
    tensors = {
        f"{tower}vision_model.{n.removeprefix(tower)}" if n.startswith(tower) else n: t
        for n, t in load_file(file).items()
    }
    write_bytes(file, save(tensors, metadata={"format": "pt"}))
    file.chmod(0o644)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(sorted(tensors), file.name)}
    write_json(folder / "model.safetensors.index.json", index)


def write_sums(folder: Path) -> None:
    """SHA-256 of every file that loading reads."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.name not in _NOT_SUMMED)
    write_bytes(folder / SUMS, "".join(f"{file_sum(f)}  {f.name}\n" for f in files).encode())


def write_curves(curves: dict[str, Curve], folder: Path) -> None:
    """`curves.json`, and `curves.png` where matplotlib is installed."""
    rows: dict[str, Any] = dict(curves)
    write_json(folder / "curves.json", rows)
    plot(curves, folder / "curves.png")
