"""Checks of numbers that are on a device: made there at once, judged when nobody has to wait for them.

On a CPU, and where nobody collects, a check is judged where it is made. Under `later` the numbers are put by, sent to
the host together, and judged there once they have arrived.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import isfinite

import torch
from torch import Tensor

Judge = Callable[[Sequence[float]], Exception | None]
"""The numbers -> what is wrong with them."""


class Doubts:
    """Numbers on a device that somebody has still to look at."""

    def __init__(self) -> None:
        self._made: list[tuple[Tensor, Judge]] = []
        self._sent: list[tuple[Tensor, torch.cuda.Event | None, list[tuple[int, Judge]]]] = []

    def add(self, x_K: Tensor, judge: Judge) -> None:
        """Put numbers by, float64."""
        self._made.append((x_K, judge))

    def send(self) -> None:
        """Copy to the host what was put by, without waiting for it."""
        made, self._made = self._made, []
        for device in {x.device for x, _ in made}:
            here = [(x, judge) for x, judge in made if x.device == device]
            x_K = torch.cat([x for x, _ in here])
            event = None
            if device.type == "cuda":
                # Into pinned memory: into any other the copy would be waited for.
                there = torch.empty(x_K.shape, dtype=x_K.dtype, pin_memory=True)
                x_K = there.copy_(x_K, non_blocking=True)
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(device))
            self._sent.append((x_K, event, [(len(x), judge) for x, judge in here]))

    def judge(self, wait: bool) -> None:
        """Look at what has arrived; `wait` for the rest.

        Raises:
            Exception: what a judge found.
        """
        if self._made and wait:
            self.send()
        while self._sent:
            x_K, event, judges = self._sent[0]
            # Other devices than NVIDIA's are asked at once: it is one number of a prefill that is over.
            if not wait and event is not None and not event.query():
                return
            if event is not None:
                event.synchronize()
            self._sent.pop(0)
            numbers, start = x_K.tolist(), 0
            for n, judge in judges:
                error = judge(numbers[start : start + n])
                start += n
                if error is not None:
                    self._made, self._sent = [], []
                    raise error


_open: ContextVar[Doubts | None] = ContextVar("doubts", default=None)


@contextmanager
def later(doubts: Doubts) -> Iterator[None]:
    """Put checks of what is on a device by, for the time of the context."""
    token = _open.set(doubts)
    try:
        yield
    finally:
        _open.reset(token)


def insist(x_K: Tensor, judge: Judge) -> None:
    """Have numbers judged: here and now, or later where somebody collects.

    Raises:
        Exception: what the judge found.
    """
    doubts = _open.get()
    if doubts is not None and x_K.device.type != "cpu":
        doubts.add(x_K, judge)
    elif (error := judge(x_K.tolist())) is not None:
        raise error


def deferred(x: Tensor) -> bool:
    """Whether a check of this tensor would be judged later."""
    return x.device.type != "cpu" and _open.get() is not None


def all_finite(*tensors: Tensor) -> bool:
    """Whether no value is NaN or infinite; a device is waited for once."""
    # Either would show in the sum, which costs a tenth of looking at each; a sum may be too large by itself.
    sums = torch.stack([x.sum(dtype=torch.float32) for x in tensors])
    return bool(sums.isfinite().all()) or all(bool(x.isfinite().all()) for x in tensors)


def insist_finite(x: Tensor, error: Callable[[], Exception]) -> None:
    """Refuse NaN and infinity.

    Raises:
        Exception: the error.
    """
    if deferred(x):
        # In float64, where only they make a sum infinite.
        insist(x.sum(dtype=torch.float64)[None], lambda sums: None if isfinite(sums[0]) else error())
    elif not all_finite(x):
        raise error()
