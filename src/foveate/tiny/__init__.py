"""The embedded model: a small, really trained LLaVA in the package, so that everything runs without a hub."""

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from foveate.errors import FoveateError

_FOLDER = Path(__file__).parent / "checkpoint"
_SUMS = "SHA256SUMS"


def path() -> Path:
    """The checkpoint's folder, after checking every file in it.

    Raises:
        FoveateError: a file is missing or is not the one that was published.
    """
    _check(_FOLDER)
    return _FOLDER


def load(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """The model in eval mode, and its processor.

    Args:
        device: where the weights go.
        dtype: None is float32, whatever the file holds: it is exact everywhere and, at this size, as fast on a CPU.

    Raises:
        FoveateError: a file is missing or corrupt.
    """
    # transformers takes seconds to import; asking for the path alone should not pay for it.
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = path()
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype or torch.float32, local_files_only=True
    )
    return model.to(device).eval(), AutoProcessor.from_pretrained(folder, local_files_only=True)


def _check(folder: Path) -> None:
    for name, expected in _sums(folder):
        file = folder / name
        if not file.is_file():
            raise FoveateError(f"the embedded model lacks {file}; install foveate again")
        stat = file.stat()
        if _sha256(os.fspath(file), stat.st_size, stat.st_mtime_ns) != expected:
            raise FoveateError(f"{file} is damaged (its SHA-256 is not the one in {_SUMS}); install foveate again")


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    try:
        text = (folder / _SUMS).read_text()
    except OSError:
        raise FoveateError(f"the embedded model lacks {folder / _SUMS}; install foveate again") from None
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        yield name, digest


@cache
def _sha256(file: str, size: int, changed: int) -> str:
    """The digest; size and time of change are there so that a changed file is read again."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
