"""Turn the one knob of an adaptive plan until its mean budget over a data set is the one asked for.

An adaptive selector keeps as many tokens as it finds each image needs, so nobody knows its budget before it was tried.
One of its fields moves all counts in one direction (its `knob`, see `selection.Knob`), so halving finds the value.

Where no cut after it is adaptive too, what the selector reads of each image is recorded in one run of the model, and
every value is tried on the record alone. Else every value costs a prefill of every example.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from foveate.data import Example
from foveate.engines.hf import Engine, load
from foveate.engines.score import answer_prompt, prepare_examples
from foveate.errors import FoveateError, PlanError
from foveate.plan import Cut, Plan
from foveate.selection import Knob, Selection, Selector, TokenView

_TEXT_BLIND = frozenset({"hidden_BND", "grid", "encoder_BNC", "keys_BNC", "cls_attn_BN", "cls_cos_BN"})
_MOST = 24
"""Values tried between the two ends: more cannot be told apart."""


def calibrate(
    plan: Plan,
    data: Sequence[Example],
    budget: float = 0.22,
    engine: Engine | None = None,
    cut: int | None = None,
    tolerance: float = 0.002,
    batch: int = 8,
    progress: bool = True,
) -> Plan:
    """The plan with one knob turned so that its mean budget over `data` is `budget`.

    The budget of a picture is its mean number of tokens per decoder layer over its original number; the mean goes over
    all pictures of all examples. Answers are not needed. Use data that no result is quoted on.

    Args:
        plan: one cut's selector must have a knob, such as the c of `methods.sms`. Its keep caps every picture, so it
            must leave room above the mean.
        data: examples, from `foveate.data.load`.
        budget: the fraction asked for, in (0, 1).
        engine: model and processor, from `foveate.engines.hf.load`; None is the embedded model.
        cut: the number of the cut to turn, from 0; None is the first one with a knob.
        tolerance: how far the mean may be off.
        batch: examples at a time.
        progress: show bars on stderr.

    Returns:
        The plan, its note saying how it was made: `files.write(path, plan.to_json().encode())` makes it a plan file.

    Raises:
        FoveateError: no data or no pictures; a budget that no value of the knob reaches, naming the range that is
            reached, or that falls between two values by more than the tolerance.
        PlanError: the plan has no knob.
    """
    if not 0 < budget < 1:
        raise PlanError(f"budget is {budget}; the mean share of tokens must lie between 0 and 1")
    if batch < 1 or not tolerance > 0:
        raise FoveateError(f"batch is {batch} and tolerance {tolerance}; both must be above 0")
    number, knob = _knob(plan, cut)
    if not any(e.images for e in data):
        raise FoveateError(f"{len(data)} examples without a picture have no budget; give examples with pictures")
    engine = engine or load()
    measure = _measure(engine, plan, data, number, batch, progress)
    value, reached = _halve(lambda v: measure(_turned(plan, number, v)), knob, budget, tolerance)
    note = (
        f"calibrated: {knob.name}={value:.6g} of cut {number} for a mean budget of {budget:.4g}; "
        f"{reached:.4f} over {len(data)} examples, on a {engine.facts.model_type} of {engine.facts.depth} layers"
    )
    made = _turned(plan, number, value)
    return replace(made, note=f"{plan.note}; {note}" if plan.note else note)


def _knob(plan: Plan, cut: int | None) -> tuple[int, Knob]:
    """The cut to turn, and by what."""
    if cut is not None and not 0 <= cut < len(plan.cuts):
        raise PlanError(f"cut is {cut}, but the plan has cuts 0 to {len(plan.cuts) - 1}")
    for number, each in enumerate(plan.cuts) if cut is None else [(cut, plan.cuts[cut])]:
        knob = getattr(each.select, "knob", None)
        # A knob that is None is one that this selector does without, such as the c of stage 2 of SMS.
        if isinstance(knob, Knob) and getattr(each.select, knob.name) is not None:
            return number, knob
    where = "the plan" if cut is None else f"cut {cut} of the plan"
    raise PlanError(f"{where} has no knob to turn; adaptive methods have one, e.g. foveate.methods.sms(keep=0.9)")


def _turned(plan: Plan, number: int, value: float) -> Plan:
    """The plan with the knob of that cut at that value."""
    select: Any = plan.cuts[number].select
    make = getattr(select, "turned", None)
    if make is None and not is_dataclass(select):
        raise PlanError(f"{type(select).__name__} has a knob, but is no dataclass and has no turned(value)")
    new = make(value) if make else replace(select, **{select.knob.name: value})
    return _with_select(plan, number, new)


def _with_select(plan: Plan, number: int, select: Selector) -> Plan:
    cuts = [replace(c, select=select) if i == number else c for i, c in enumerate(plan.cuts)]
    return replace(plan, cuts=tuple(cuts))


def _halve(mean: Callable[[float], float], knob: Knob, budget: float, tolerance: float) -> tuple[float, float]:
    """The value whose mean budget is nearest to the one asked for, and that mean."""
    ends = (knob.low, knob.high) if knob.rising else (knob.high, knob.low)
    tried = [(mean(value), value) for value in ends]
    (least, low), (most, high) = tried
    if not least - tolerance <= budget <= most + tolerance:
        raise FoveateError(
            f"a mean budget of {budget:.4g} is out of reach: {knob.name} between {knob.low:.4g} and {knob.high:.4g} "
            f"gives {least:.4f} to {most:.4f}; ask for one in between, or change the plan's keeps"
        )
    for _ in range(_MOST):
        if min(abs(b - budget) for b, _ in tried) <= tolerance:
            break
        # In the middle of the ratios, where the knob is one: what it does is then spread evenly.
        middle = math.sqrt(low * high) if min(low, high) > 0 else (low + high) / 2
        tried.append((mean(middle), middle))
        low, high = (middle, high) if tried[-1][0] < budget else (low, middle)
    reached, value = min(tried, key=lambda t: abs(t[0] - budget))
    if abs(reached - budget) > tolerance:
        raise FoveateError(
            f"the nearest mean budget to {budget:.4g} is {reached:.4f} ({knob.name}={value:.4g}), further than the "
            f"tolerance of {tolerance}; counts are whole, so give more examples or a larger tolerance"
        )
    return value, reached


def _measure(
    engine: Engine, plan: Plan, data: Sequence[Example], number: int, batch: int, progress: bool
) -> Callable[[Plan], float]:
    """A function from a plan with its knob turned to its mean budget."""
    fitted = plan.at_depth(engine.facts.depth)
    bar = _Bar(progress)
    same = len(fitted.cuts) == len(plan.cuts)
    if same and number == 0 and not any(c.select.adaptive or c.over == "prompt" for c in fitted.cuts[1:]):
        record = _record(engine, fitted, data, batch, bar)
        return lambda turned: _recorded(record, turned.at_depth(engine.facts.depth), engine.facts.depth)
    prompts = [e for e in data if e.images]

    def tried(turned: Plan) -> float:
        shares: list[float] = []
        for part in bar.over(_batches(prompts, batch), "trying a value on every example"):
            answers = answer_prompt(engine, prepare_examples(engine, part), turned, max_new_tokens=1)
            shares += [i.budget / i.tokens for a in answers for i in a.images]
        return fmean(shares)

    return tried


@dataclass
class _Bar:
    """Bars on stderr, which must not stand in what a program reads."""

    shown: bool

    def over(self, parts: Sequence[Any], text: str) -> Iterable[Any]:
        return track(parts, text, console=Console(stderr=True), transient=True, disable=not self.shown)


@dataclass(frozen=True)
class _Seen:
    """What the selector was shown of some pictures, and how often each stands in the data."""

    view: TokenView
    k: int
    times: int


class _Recorder:
    """Stands in for a selector: writes down what it is shown, and keeps one token, so that the rest costs little."""

    adaptive = True

    def __init__(self, select: Selector) -> None:
        self.reads = select.reads
        self.attention = getattr(select, "attention", None)
        self.seen: list[tuple[TokenView, int]] = []

    def __call__(self, view: TokenView, k: int) -> Selection:
        self.seen.append((view, k))
        b, n = view.shape
        return Selection.of(torch.zeros(b, 1, dtype=torch.long, device=view.device), n)


def _record(engine: Engine, plan: Plan, data: Sequence[Example], batch: int, bar: _Bar) -> list[_Seen]:
    """One run over the data; pictures that come again are looked at once, where the question is not read."""
    first = plan.cuts[0]
    blind = first.select.reads <= _TEXT_BLIND and first.at in ("encoder", "input")
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
    out: list[_Seen] = []
    recorder = _Recorder(first.select)
    spying = Plan((replace(first, select=recorder),), plan.positions)
    for e, many in zip(bar.over(once, "looking at every picture"), counts, strict=True):
        recorder.seen = []
        answer_prompt(engine, prepare_examples(engine, [e]), spying, max_new_tokens=1)
        out += [_Seen(view, k, many) for view, k in recorder.seen]
    if not out:
        raise PlanError(f"keep={first.keep} keeps every token, so the selector is never asked; give a cap below that")
    return out


def _recorded(record: list[_Seen], plan: Plan, depth: int) -> float:
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


def _batches(data: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [data[i : i + size] for i in range(0, len(data), size)]
