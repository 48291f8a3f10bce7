"""One timed answer of a forced length, split where the language model's first call begins and ends."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch

from foveate.engines.answer import Times
from foveate.engines.loading import Engine
from foveate.engines.stopwatch import Stopwatch
from foveate.hf.attach import attach
from foveate.hf.report import Report
from foveate.plan import Plan

PARTS = ("encode", "select", "prefill", "decode", "first_token", "total")


@dataclass
class Runner:
    """Something to be timed again and again, and what came of it.

    Args:
        arguments: gives the arguments of `generate`; what it does is timed as encoding.
        plan, tail: attached around the call; attaching itself is not timed, it happens once.
        around: another context around the call.
    """

    arguments: Callable[[], dict[str, Any]]
    plan: Plan | None = None
    tail: int | None = None
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    times: list[Times] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    report: Report | None = None

    def run(self, engine: Engine, length: int, count: bool = True) -> None:
        """Answer once, with exactly `length` tokens."""
        model = engine.model
        cuda = model.device.type == "cuda"
        with ExitStack() as stack:
            stack.enter_context(self.around())
            attached = stack.enter_context(attach(model, self.plan, tail=self.tail)) if self.plan else None
            if cuda:
                torch.cuda.reset_peak_memory_stats(model.device)
            clock = stack.enter_context(Stopwatch(model))
            with torch.inference_mode():
                model.generate(
                    **self.arguments(), min_new_tokens=length, max_new_tokens=length, do_sample=False, num_beams=1,
                    temperature=None, top_p=None, top_k=None,
                )  # fmt: skip
            clock.stop()
            self.report = attached.report if attached else None
        if count:
            self.times.append(clock.times(self.report))
            if cuda:
                self.peaks.append(torch.cuda.max_memory_allocated(model.device))

    def summary(self) -> dict[str, Any]:
        """Median and quartiles of every part in seconds, and the largest peak of memory in bytes (GPUs only)."""
        rows = [t.to_dict() for t in self.times]
        return {p: spread([r[p] for r in rows]) for p in PARTS} | {"peak_bytes": max(self.peaks, default=None)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "low": low, "high": high}


def ratio(over: Runner, under: Runner, part: str) -> dict[str, float]:
    """`over` / `under`, pair by pair of one turn: what slows the machine down slows both."""
    pairs = zip(over.times, under.times, strict=True)
    return spread([getattr(a, part) / getattr(b, part) for a, b in pairs])


def middle(runner: Runner, part: str) -> float:
    """Median seconds of a part."""
    return median(getattr(t, part) for t in runner.times)
