"""The embedded checkpoint: where it is, that it is whole, and how to load it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from foveate.errors import FoveateError

SUMS = "SHA256SUMS"
JOINT = "joint.safetensors"
_FOLDER = Path(__file__).parent / "checkpoint"
_TOWER = "vision_model."


def path() -> Path:
    """The folder of the embedded checkpoint, for `from_pretrained` and the like, after checking every file in it.

    Raises:
        FoveateError: a file is missing or is not the one that was trained.
    """
    verify(_FOLDER)
    return _FOLDER


def verify(folder: Path) -> None:
    """Compare every file that SHA256SUMS names with its sum.

    Raises:
        FoveateError: naming the first file that is missing or differs.
    """
    for name, expected in _sums(folder):
        file = folder / name
        if not file.is_file():
            raise FoveateError(f"the checkpoint lacks {file}; install foveate again")
        if file_sum(file) != expected:
            raise FoveateError(f"{file} is damaged (its SHA-256 is not the one in {SUMS}); install foveate again")


def file_sum(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal; read again only when the file has changed."""
    stat = file.stat()
    return _sum(os.fspath(file), stat.st_size, stat.st_mtime_ns)


@cache
def _sum(file: str, size: int, changed: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeError):
        raise FoveateError(f"the checkpoint lacks {folder / SUMS}; install foveate again") from None
    for line in lines:
        digest, _, name = line.partition("  ")
        yield name, digest


def load(
    device: str | torch.device | None = None, dtype: torch.dtype | None = None, folder: Path | None = None
) -> tuple[Any, Any]:
    """The trained VLM in eval mode and its processor, ready to `generate`.

    Args:
        device: where the weights go; None is the CPU.
        dtype: None is float32, whatever the file holds (bfloat16): exact everywhere, and fast enough at this size.
        folder: another checkpoint of the same anatomy instead of the embedded one.

    Raises:
        FoveateError: a file is missing or damaged.
    """
    # transformers takes seconds to import; looking at the world should not pay for it.
    from transformers import AutoModelForImageTextToText, AutoProcessor

    verify(folder := folder or _FOLDER)
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype or torch.float32, local_files_only=True
    )
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    return model.to(device or "cpu").eval(), processor


def load_joint(model: Any, folder: Path | None = None) -> Any:
    """The `CLIPModel` whose vision tower `model` reads: the same tensors, plus the text tower and the two projections.

    Give it texts through `foveate.tiny.text_ids`, which closes them with the token that the text tower pools at.

    Raises:
        FoveateError: a file is missing or damaged, or holds another anatomy.
    """
    from safetensors.torch import load_file

    from foveate.tiny.anatomy import build_clip, share_tower

    verify(folder := folder or _FOLDER)
    weight = next(model.model.vision_tower.parameters())
    clip = build_clip().to(device=weight.device, dtype=weight.dtype)
    share_tower(clip, model)
    missing, unexpected = clip.load_state_dict(load_file(folder / JOINT), strict=False)
    strangers = [*unexpected, *(name for name in missing if not name.startswith(_TOWER))]
    if strangers:
        raise FoveateError(f"{folder / JOINT} does not fit this anatomy: {', '.join(strangers[:3])}")
    return clip.eval()


def joint_tensors(clip: Any) -> dict[str, torch.Tensor]:
    """What `joint.safetensors` holds: all of `clip` but its vision tower."""
    state = clip.state_dict()
    return {n: t.contiguous() for n, t in state.items() if not n.startswith(_TOWER) and not n.endswith("position_ids")}
