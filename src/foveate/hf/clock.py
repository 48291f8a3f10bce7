"""Seconds spent choosing, on the device's own clock where it has one, so that measuring does not stop it."""

import time
from collections.abc import Callable, Iterable

import torch

Seconds = Callable[[], float]


class Clock:
    """Appends a function that gives the seconds spent inside a `with`."""

    def __init__(self, into: list[Seconds], device: torch.device) -> None:
        self.into, self.cuda = into, device.type == "cuda"

    def __enter__(self) -> None:
        if self.cuda:
            self.events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self.events[0].record()
        else:
            self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if not self.cuda:
            spent = time.perf_counter() - self.start
            self.into.append(lambda: spent)
            return
        start, end = self.events
        end.record()

        def seconds() -> float:
            end.synchronize()
            return start.elapsed_time(end) / 1e3

        self.into.append(seconds)


def total(seconds: Iterable[Seconds]) -> float:
    """Sum of what clocks measured."""
    return float(sum(s() for s in seconds))
