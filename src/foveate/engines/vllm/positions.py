"""Where kept tokens stand: the positions of the unpruned prompt, though which tokens are kept is known much later.

When a request arrives, its prompt is stretched to what it would be unpruned, and vLLM's own rule gives the positions of
that. Text takes its own; an image's kept tokens all take the image's first, since nobody has chosen yet. So lengths and
decoding do not depend on the choice, and a prompt found whole in a cache needs no repair. How far each kept token lies
from that first position travels with its embedding, as digits that every float type holds exactly.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

AXES, BASE = 3, 256
DIGITS = 2 * AXES
"""Two digits an axis: bfloat16 counts exactly to 256."""


class Run(NamedTuple):
    """An image's placeholders in the pruned prompt."""

    start: int
    kept: int
    tokens: int
    """Unpruned."""


def stretch(tokens: Sequence[int], runs: Sequence[Run]) -> tuple[list[int], Tensor]:
    """The unpruned prompt, and for each place of the pruned one its place there: an image's first for all its tokens.

    Args:
        tokens: ids of the pruned prompt, L of them.
        runs: its images, in order.

    Returns:
        ids, and places [L].
    """
    ids: list[int] = []
    places: list[Tensor] = []
    at = 0
    for start, kept, n in runs:
        places += [torch.arange(len(ids), len(ids) + start - at), torch.full((kept,), len(ids) + start - at)]
        ids += [*tokens[at:start], *[tokens[start]] * n]
        at = start + kept
    places.append(torch.arange(len(ids), len(ids) + len(tokens) - at))
    return [*ids, *tokens[at:]], torch.cat(places)


def shifted(features: Sequence[Any], grown: Sequence[int]) -> list[Any]:
    """vLLM's features, in order, at their places in the unpruned prompt, where each is longer by `grown`."""
    out, by = [], 0
    for f, more in zip(features, grown, strict=True):
        where = f.mm_position
        out.append(replace(f, mm_position=replace(where, offset=where.offset + by, length=where.length + more)))
        by += more
    return out


def encode(places_N3: Tensor, dtype: torch.dtype) -> Tensor:
    """Places relative to an image's first position, as digits: [N, 6]."""
    return torch.cat((places_N3 // BASE, places_N3 % BASE), -1).to(dtype)


def decode(digits_N6: Tensor) -> Tensor:
    """The places behind `encode`: [N, 3]."""
    digits = digits_N6.long()
    return digits[:, :AXES] * BASE + digits[:, AXES:]
