"""The data of a search in two halves: one to search on, one that judges the result."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foveate.data import Example
from foveate.errors import FoveateError

FEWEST = 20
"""Examples in a half, below which nothing can be said at all."""


@dataclass(frozen=True)
class Split:
    """Two halves of the data that share no picture."""

    search: list[Example]
    held: list[Example]


def split(examples: Sequence[Example], seed: int = 0) -> Split:
    """Halve the data: questions about one picture stay together, since they are alike.

    Raises:
        FoveateError: too few examples, or too few pictures.
    """
    if len(examples) < 2 * FEWEST:
        raise FoveateError(
            f"{len(examples)} examples are too few to search on one half and judge on the other; give at least "
            f"{2 * FEWEST} (some hundreds make a promise of a point or two)"
        )
    groups: dict[Any, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(tuple(str(p) if not hasattr(p, "tobytes") else id(p) for p in example.images), []).append(i)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    chosen: set[int] = set()
    for numbers in order:
        if len(chosen) + len(numbers) <= (len(examples) + 1) // 2:
            chosen.update(numbers)
    halves = Split(
        [e for i, e in enumerate(examples) if i in chosen], [e for i, e in enumerate(examples) if i not in chosen]
    )
    if min(len(halves.search), len(halves.held)) < FEWEST:
        raise FoveateError(f"the data's {len(groups)} pictures cannot be halved; give questions about more pictures")
    return halves
