"""A micro-batch: what is drawn for it, what is learnt from it, and the gradients of several of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Named = dict[str, nn.Parameter]


@dataclass(frozen=True)
class Micro:
    """`draw` (step, number of the micro-batch) gives scenes and labels and touches no model, so that another process
    can do it ahead of time; `learn` runs forward and backward on what was drawn and returns figures to average."""

    draw: Callable[[int, int], Any]
    learn: Callable[[Any], dict[str, float]]

    def __call__(self, step: int, number: int) -> dict[str, float]:
        """Both, one after the other."""
        return self.learn(self.draw(step, number))


def take_gradients(named: Named, row: Tensor) -> None:
    """Move the gradients of `named` into `row`, one after another; zero where there is none."""
    parts = row.split([p.numel() for p in named.values()])
    for parameter, part in zip(named.values(), parts, strict=True):
        if parameter.grad is None:
            part.zero_()
        else:
            part.copy_(parameter.grad.reshape(-1))
            parameter.grad = None


def mean_gradients(named: Named, rows: Tensor) -> dict[str, Tensor]:
    """The mean over micro-batches of rows that `take_gradients` filled, by name."""
    parts = (rows.sum(0) / len(rows)).split([p.numel() for p in named.values()])
    return {n: g.view_as(p) for (n, p), g in zip(named.items(), parts, strict=True)}


def mean_figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the micro-batches that have it."""
    found: dict[str, list[float]] = {}
    for figures in rows:
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def device_of(named: Named) -> torch.device:
    """Where the first of the parameters is; training keeps all of them in one place."""
    return next(iter(named.values())).device
