"""The data of a training in three parts that share no picture."""

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from foveate.data import Example
from foveate.errors import FoveateError


@dataclass(frozen=True)
class Parts:
    """Examples for training, for setting the dial and watching, and for the figures that are quoted."""

    train: list[Example]
    watch: list[Example]
    held: list[Example]


def split(examples: Sequence[Example], share: float = 0.1) -> Parts:
    """Three parts, `share` of the pictures for each of the last two; a picture's questions stay together.

    By a hash of the pictures' names, so that neither adding examples nor moving all of them moves one.

    Raises:
        FoveateError: too few pictures for three parts.
    """
    name = _names({i for e in examples for i in e.images if isinstance(i, Path)})
    keys = [
        "|".join(name[i] if isinstance(i, Path) else hashlib.sha256(i.tobytes()).hexdigest() for i in e.images)
        for e in examples
    ]
    rank = {key: hashlib.sha256(key.encode()).hexdigest() for key in keys}
    if len(rank) < 4:
        raise FoveateError(f"{len(rank)} different pictures are too few: some train, some calibrate, some are held out")
    order = sorted(rank, key=rank.__getitem__)
    n = max(1, int(share * len(order) + 0.5))
    watch, held = set(order[:n]), set(order[n : 2 * n])
    parts = Parts([], [], [])
    for e, key in zip(examples, keys, strict=True):
        (parts.watch if key in watch else parts.held if key in held else parts.train).append(e)
    return parts


def _names(paths: Collection[Path]) -> dict[Path, str]:
    """What each picture is called: its file's name, with the folders that tell those of one name apart."""
    if len({p.name for p in paths}) == len(paths):
        return {p: p.name for p in paths}
    root = os.path.commonpath([p.parent.absolute() for p in paths])
    return {p: os.path.relpath(p, root) for p in paths}
