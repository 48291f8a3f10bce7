"""Where the seconds of one answer go: stamps at the begin and end of the language model's first call."""

import time
from collections.abc import Callable
from typing import Any

import torch

from foveate.engines.answer import Times
from foveate.errors import ModelError
from foveate.hf.families import family
from foveate.hf.report import Report


class Stopwatch:
    """Stamps the begin and end of the language model's first call."""

    def __init__(self, model: Any) -> None:
        self._module = family(model).language_model(model)
        self._now = _timer(model.device)
        self._stamps: list[float] = []

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

    def times(self, report: Report | None) -> Times:
        """The split; `report` says how long choosing took, None without a plan."""
        if len(self._stamps) != 4:
            raise ModelError("generate() never called the language model; this model cannot be timed part by part")
        start, begin, end, stop = self._stamps
        # Selection is taken out of the part that it happened in.
        select = report.select_seconds if report else 0.0
        early = report.encode_select_seconds if report else 0.0
        return Times(begin - start - early, select, end - begin - (select - early), stop - end)

    def _begin(self, *_: object) -> None:
        if len(self._stamps) == 1:
            self._stamps.append(self._now())

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
