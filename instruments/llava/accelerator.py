"""Gradients on one GPU, for which processes on the CPU draw scenes ahead.

A model of this size hardly fills a GPU, and painting and labelling take longer than its steps: so the processes paint.
Micro-batches are taken in their order, whoever drew them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from instruments.llava.micro import Micro, Named, device_of, mean_figures, mean_gradients, take_gradients

_AHEAD = 4
"""Micro-batches that each process may be ahead."""


class Accelerator:
    """Used as `Workers` are: a context manager; call `gradients` once a step, for the numbers in `steps` in turn."""

    def __init__(self, named: Named, micro: Micro, count: int, steps: range, processes: int) -> None:
        self.named, self.micro, self.device = named, micro, device_of(named)
        self.rows = torch.zeros(count, sum(p.numel() for p in named.values()), device=self.device)
        places = [(step, number) for step in steps for number in range(count)]
        self.loader: DataLoader[Any] = DataLoader(
            _Drawings(micro, places),
            batch_size=None,
            num_workers=processes,
            prefetch_factor=_AHEAD,
            collate_fn=_as_it_is,
            multiprocessing_context="fork",
        )

    def __enter__(self) -> Accelerator:
        self.drawn: Iterator[Any] = iter(self.loader)
        return self

    def __exit__(self, *error: object) -> None:
        del self.drawn

    def gradients(self, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The mean gradient over the micro-batches of `step`, float32, and the mean of their figures."""
        figures = []
        for row in self.rows:
            drawn = next(self.drawn)
            with self.device:
                figures.append(self.micro.learn(drawn))
            take_gradients(self.named, row)
        return mean_gradients(self.named, self.rows), mean_figures(figures)


class _Drawings(Dataset[Any]):
    def __init__(self, micro: Micro, places: Sequence[tuple[int, int]]) -> None:
        self.micro, self.places = micro, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return self.micro.draw(*self.places[index])


def _as_it_is(drawn: Any) -> Any:
    return drawn
