"""Gradients on CPUs, from a few one-thread processes that share the weights and take micro-batches from a counter.

Two such processes keep two cores busy where one process of two threads stalls as soon as a neighbour takes a core.
Each micro-batch has its own row in the shared gradient buffer and the rows are added in order: which process took
which micro-batch changes nothing, so that a run is repeatable.
"""

from __future__ import annotations

import ctypes
import os
import threading
from multiprocessing import connection, parent_process
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from instruments.llava.micro import Micro, mean_figures, mean_gradients, take_gradients

_PATIENCE = 900.0
"""Seconds that a process waits for another before it takes it for dead."""


class Workers:
    """Processes forked from this one. Use as a context manager; call `gradients` once a step."""

    def __init__(self, named: dict[str, nn.Parameter], micro: Micro, count: int, processes: int = 2) -> None:
        self.named, self.micro, self.count = named, micro, count
        for parameter in named.values():
            parameter.data.share_memory_()
        context = mp.get_context("fork")
        size = sum(p.numel() for p in named.values())
        self.buffer = torch.zeros(count, size).share_memory_()
        self.taken = context.Value(ctypes.c_long, 0)
        self.step = context.Value(ctypes.c_long, -1)
        self.barrier = context.Barrier(processes)
        self.figures: Any = context.SimpleQueue()
        self.others = [context.Process(target=self._serve, daemon=True) for _ in range(processes - 1)]

    def __enter__(self) -> Workers:
        self.threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for process in self.others:
            process.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.others and error[0] is None:
            self.step.value = -1
            self.barrier.wait(_PATIENCE)
        for process in self.others:
            if error[0] is not None:
                process.terminate()
            process.join()
        torch.set_num_threads(self.threads)

    def gradients(self, step: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The mean gradient over the micro-batches of `step`, float32, and the mean of their figures."""
        self.step.value = step
        self.taken.value = 0
        self.barrier.wait(_PATIENCE)
        self._work(step)
        self.barrier.wait(_PATIENCE)
        rows = sorted((self.figures.get() for _ in range(self.count)), key=lambda row: int(row[0]))
        return mean_gradients(self.named, self.buffer), mean_figures([figures for _, figures in rows])

    def _serve(self) -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        torch.set_num_threads(1)
        while True:
            self.barrier.wait(_PATIENCE)
            if self.step.value < 0:
                return
            self._work(self.step.value)
            self.barrier.wait(_PATIENCE)

    def _work(self, step: int) -> None:
        while True:
            with self.taken.get_lock():
                number = self.taken.value
                self.taken.value += 1
            if number >= self.count:
                return
            figures = self.micro(step, number)
            take_gradients(self.named, self.buffer[number])
            self.figures.put((number, figures))


def _end_with_parent() -> None:
    """A killed parent cannot end its children; so each child waits for that and ends itself."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
