"""From a split and an index to random numbers: SHA-256 of the names feeds NumPy's PCG64, nothing else."""

from __future__ import annotations

import hashlib

import numpy as np

from foveate.errors import FoveateError

SPLITS = ("train", "val", "test")
WORLD = "foveate.tiny world 2"
"""Change this name whenever the meaning of a seed changes: it is part of every seed."""


def seed(split: str, index: int, purpose: str = "layout") -> int:
    """A 256-bit seed. Two splits cannot share one, because the split's name is hashed with the index.

    Raises:
        FoveateError: for an unknown split or a negative index.
    """
    if split not in SPLITS:
        raise FoveateError(f"no split {split!r}; there are {', '.join(SPLITS)}")
    if index < 0:
        raise FoveateError(f"a scene's index must be 0 or more, not {index}")
    text = f"{WORLD}|{split}|{index}|{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")


def generator(split: str, index: int, purpose: str) -> np.random.Generator:
    """An independent stream for each purpose, so that asking more questions never moves a pixel."""
    return np.random.Generator(np.random.PCG64(seed(split, index, purpose)))
