"""Turn the one knob of an adaptive plan until its mean budget over a data set is the one asked for.

An adaptive selector keeps as many tokens as it finds each image needs, so nobody knows its budget before it was tried.
One of its fields moves all counts in one direction (its `knob`, see `selection.Knob`), so halving finds the value.

Where no cut after it is adaptive too, what the selector reads of each image is recorded in one run of the model, and
every value is tried on the record alone. Else every value costs a prefill of every example.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from foveate.data import Example
from foveate.engines.hf import Engine, load
from foveate.engines.score import answer_prompt, prepare_examples
from foveate.errors import FoveateError, PlanError
from foveate.plan import Plan
from foveate.search.record import Bars, look, mean_budget
from foveate.selection import Knob, Selector

T = TypeVar("T")
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
    bars: Bars = partial(_bars, progress)
    same = len(fitted.cuts) == len(plan.cuts)
    if same and number == 0 and not any(c.select.adaptive or c.over == "prompt" for c in fitted.cuts[1:]):
        seen = look(engine, fitted, data, bars)
        return lambda turned: mean_budget(seen, turned.at_depth(engine.facts.depth), engine.facts.depth)
    prompts = [e for e in data if e.images]

    def tried(turned: Plan) -> float:
        shares: list[float] = []
        for part in bars(_batches(prompts, batch), "trying a value on every example"):
            answers = answer_prompt(engine, prepare_examples(engine, part), turned, max_new_tokens=1)
            shares += [i.budget / i.tokens for a in answers for i in a.images]
        return fmean(shares)

    return tried


def _bars(shown: bool, parts: Sequence[T], text: str) -> Iterable[T]:
    """A bar on stderr, which must not stand in what a program reads."""
    return track(parts, text, console=Console(stderr=True), transient=True, disable=not shown)


def _batches(data: Sequence[Example], size: int) -> list[Sequence[Example]]:
    return [data[i : i + size] for i in range(0, len(data), size)]
