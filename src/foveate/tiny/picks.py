"""Reference choices of visual tokens, for measuring the instrument itself. The library's methods live elsewhere."""

from __future__ import annotations

from math import isqrt

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.tiny.branches import LLAVA, TOKENS, Frame
from foveate.tiny.questions import Question

_SIDES = {128: (16, 8), 64: (8, 8), 32: (8, 4), 16: (4, 4), 8: (4, 2)}


def top(score: Tensor, k: int) -> Tensor:
    """The k highest of each row, rising: B x N to B x K."""
    return score.topk(k, -1).indices.sort(-1).values


def uniform(k: int, tokens: int = TOKENS) -> Tensor:
    """k numbers spread evenly over all."""
    return torch.linspace(0, tokens - 1, k).round().long()


def farthest(features: Tensor, k: int) -> Tensor:
    """DivPrune: grow a set by the token whose nearest chosen one is farthest (cosine). B x N x C to B x K."""
    x = F.normalize(features.float(), dim=-1)
    distance = 1 - x @ x.transpose(-1, -2)
    rows = torch.arange(len(x))
    alone = distance.masked_fill(torch.eye(x.shape[1], dtype=torch.bool), float("inf"))
    chosen = [alone.amin(-1).argmax(-1)]
    nearest = distance[rows, chosen[0]]
    for _ in range(k - 1):
        chosen.append(nearest.argmax(-1))
        nearest = torch.minimum(nearest, distance[rows, chosen[-1]])
    return torch.stack(chosen, 1).sort(-1).values


def pooled(image: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Equal tokens by averaging blocks of the grid: B x K x D, and each block's middle as its place."""
    rows, columns = _SIDES[k]
    side = isqrt(image.shape[1])
    grid = image.transpose(1, 2).unflatten(2, (side, side)).float()
    mixed = F.adaptive_avg_pool2d(grid, (rows, columns)).flatten(2).transpose(1, 2).to(image.dtype)
    y = ((torch.arange(rows) + 0.5) * side / rows).long()
    x = ((torch.arange(columns) + 0.5) * side / columns).long()
    return mixed, (y[:, None] * side + x[None, :]).flatten().expand(len(image), -1)


def oracle(question: Question, k: int, rng: np.random.Generator, frame: Frame = LLAVA) -> Tensor:
    """Tokens of the boxes that the answer needs, taken in turn from each box; then any others, at random."""
    queues = [_spread(np.flatnonzero(frame.covered([box], 0.05)).tolist()) for box in question.boxes]
    chosen: dict[int, None] = {}
    while len(chosen) < k and any(queues):
        for queue in queues:
            if queue and len(chosen) < k:
                chosen[queue.pop(0)] = None
    for i in rng.permutation(frame.tokens):
        if len(chosen) == k:
            break
        chosen[int(i)] = None
    return torch.tensor(sorted(chosen))


def _spread(queue: list[int]) -> list[int]:
    """Every third first, then the rest, so that a box cut short still has tokens from all of it."""
    return queue[1::3] + queue[::3] + queue[2::3]
