"""What a plan's first selector is shown of each picture, recorded in one run, and the budgets that follow from it.

That is so where no later cut is adaptive: then the number that the first one keeps says what each layer holds.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.hf import Engine
from foveate.engines.score import answer_prompt, prepare_examples
from foveate.errors import PlanError
from foveate.fields import ASKED
from foveate.plan import Plan
from foveate.selection import Selection, Selector, TokenView

Bars = Callable[[Sequence[Any], str], Iterable[Any]]
"""Goes through a sequence and shows how far it is."""


@dataclass(frozen=True)
class Seen:
    """What the selector was shown of some pictures, and how often each stands in the data."""

    view: TokenView
    k: int
    times: int


class _Recorder:
    """Stands in for a selector: writes down what it is shown, and keeps one token, so that the rest costs little."""

    adaptive = True

    def __init__(self, select: Selector) -> None:
        self.select, self.reads = select, select.reads
        self.seen: list[tuple[TokenView, int]] = []

    def __getattr__(self, name: str) -> Any:
        # What engines ask of selectors beside the protocol: whose attention, which text tower, which words.
        return getattr(self.__dict__["select"], name)

    def __call__(self, view: TokenView, k: int) -> Selection:
        self.seen.append((view, k))
        b, n = view.shape
        return Selection.of(torch.zeros(b, 1, dtype=torch.long, device=view.device), n)


def look(engine: Engine, plan: Plan, data: Sequence[Example], bars: Bars) -> list[Seen]:
    """One run over the data; pictures that come again are looked at once, where the question is not read.

    Raises:
        PlanError: the first cut keeps everything, so that its selector is never asked.
    """
    first = plan.cuts[0]
    blind = not first.select.reads & ASKED and first.at in ("encoder", "input")
    times: dict[Any, int] = {}
    once: list[Example] = []
    for number, e in enumerate(data):
        if not e.images:
            continue
        key: Any = tuple(p if isinstance(p, Path) else id(p) for p in e.images) if blind else number
        if key not in times:
            once.append(e)
        times[key] = times.get(key, 0) + 1
    counts = list(times.values())
    out: list[Seen] = []
    recorder = _Recorder(first.select)
    spying = Plan((replace(first, select=recorder),), plan.positions)
    for e, many in zip(bars(once, "looking at every picture"), counts, strict=True):
        recorder.seen = []
        answer_prompt(engine, prepare_examples(engine, [e]), spying, max_new_tokens=1)
        out += [Seen(view, k, many) for view, k in recorder.seen]
    if not out:
        raise PlanError(f"keep={first.keep} keeps every token, so the selector is never asked; give a cap below that")
    return out


def mean_budget(record: list[Seen], plan: Plan, depth: int) -> float:
    """The mean budget of a plan whose first cut alone is adaptive, from what its selector was shown."""
    first = plan.cuts[0]
    total = pictures = 0.0
    for seen in record:
        for kept in first.select(seen.view, seen.k).counts_B.tolist():
            n = seen.view.shape[1]
            total += seen.times * _layers(plan.cuts, n, kept, depth) / (n * depth)
            pictures += seen.times
    return total / pictures


def _layers(cuts: Sequence[Cut], n: int, kept: int, depth: int) -> int:
    """Tokens summed over the layers, of a picture of n of which the first cut keeps so many."""
    total, left, layer = 0, n, 0
    for i, cut in enumerate(cuts):
        start = cut.at if isinstance(cut.at, int) else 0
        total += left * (start - layer)
        left, layer = (kept if i == 0 else min(left, cut.count(n))), start
    return total + left * (depth - layer)
