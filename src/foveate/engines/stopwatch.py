"""Where the seconds of one answer go: stamps at the begin and end of the language model's first call."""

import time
from collections.abc import Callable
from typing import Any

import torch

from foveate.attach import Attachment
from foveate.clock import total
from foveate.engines.answer import Times
from foveate.errors import ModelError
from foveate.families import family


class Stopwatch:
    """Stamps the begin and end of the language model's first call."""

    def __init__(self, model: Any, attachment: Attachment | None) -> None:
        self._module = family(model).language_model(model)
        self._attachment = attachment
        self._now = _timer(model.device)
        self._stamps: list[float] = []
        self._encoding: list[Any] = []

    def __enter__(self) -> "Stopwatch":
        # First of all hooks on the way in, last on the way out: what a plan does in between is its own cost.
        self._hooks = (
            self._module.register_forward_pre_hook(self._begin, prepend=True),
            self._module.register_forward_hook(self._end),
        )
        self._stamps = [self._now()]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def stop(self) -> None:
        """The answer is complete."""
        self._stamps.append(self._now())

    def times(self, select: float) -> Times:
        """The split; `select` is all selection time, whichever part it happened in."""
        if len(self._stamps) != 4:
            raise ModelError("generate() never called the language model; this model cannot be timed part by part")
        start, begin, end, stop = self._stamps
        early = total(self._encoding)
        return Times(begin - start - early, select, end - begin - (select - early), stop - end)

    def _begin(self, *_: object) -> None:
        if len(self._stamps) == 1:
            self._stamps.append(self._now())
            # What ran so far ran inside the encoder: taps, and cuts before the projector.
            run = self._attachment._run if self._attachment else None
            self._encoding = list(run.seconds) if run else []

    def _end(self, *_: object) -> None:
        if len(self._stamps) == 2:
            self._stamps.append(self._now())


def _timer(device: torch.device) -> Callable[[], float]:
    if device.type != "cuda":
        return time.perf_counter

    def now() -> float:
        torch.cuda.synchronize(device)  # kernels run behind the Python that launched them
        return time.perf_counter()

    return now
