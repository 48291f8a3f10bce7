"""Calibration: the mean budget is the one asked for, by the model's own reports, or the error says what can be had."""

from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

import pytest
import torch

from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.hf import load
from foveate.engines.score import answer
from foveate.errors import FoveateError, PlanError
from foveate.methods import METHODS, method
from foveate.methods.switches import counted
from foveate.methods.worded import worded
from foveate.plan import Plan
from foveate.search import calibrate
from foveate.search.record import _Recorder
from foveate.selection import Knob, Selection
from foveate.tiny.examples import examples


@pytest.fixture(scope="module")
def engine():
    return load()


@pytest.fixture(scope="module")
def data():
    return examples(range(5), "val", questions=2)


def measured(engine, plan, data):
    """By the reports of the model itself."""
    scored = answer(engine, data, plan, max_new_tokens=1)
    return fmean(i.budget / i.tokens for s in scored for i in s.images)


def quiet(*args, tolerance=0.012, **kwargs):
    """A few pictures make large steps, so the tolerance is wide."""
    return calibrate(*args, tolerance=tolerance, progress=False, **kwargs)


@dataclass(frozen=True)
class Falling:
    """A share of the tokens at hand that falls as its field rises."""

    drop: float = 0.5

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = True
    knob: ClassVar[Knob] = Knob("drop", 0.0, 1.0, rising=False)

    def __call__(self, view, k):
        b, n = view.shape
        count = max(1, min(k, round((1 - self.drop) * n)))
        return Selection.of(torch.arange(count).expand(b, count), n)


FLAT = method("uniform", keep=0.1).cuts[0].select


@pytest.mark.parametrize(
    ("plan", "budget"),
    [
        (METHODS["sms"](0.8, stages=1), 0.22),
        (METHODS["divprune"](0.8, distance=0.1), 0.22),
        (METHODS["sms"](0.8, layers=(3,), image=0.5), 0.15),
        (Plan((Cut("input", METHODS["sms"](0.8).cuts[0].select, 0.8), Cut(4, FLAT, 0.1))), 0.15),
        (Plan((Cut(2, Falling(), 0.9), Cut(5, FLAT, 0.05))), 0.4),
        (Plan((Cut("input", FLAT, 0.5), Cut(5, Falling(), 0.4))), 0.35),
    ],
    ids=["stage one", "to one distance", "both stages", "then a fixed cut", "at a layer, falling", "second cut"],
)
def test_it_meets_the_budget(engine, data, plan, budget):
    made = quiet(plan, data, budget, engine)
    assert measured(engine, made, data) == pytest.approx(budget, abs=0.0121)
    assert [(c.at, c.keep, c.over) for c in made.cuts] == [(c.at, c.keep, c.over) for c in plan.cuts]
    assert "calibrated" in made.note and "10 examples" in made.note
    assert sum(a.select != b.select for a, b in zip(made.cuts, plan.cuts, strict=True)) == 1


def test_what_comes_out_goes_into_a_plan_file(engine, data):
    made = quiet(replace(METHODS["sms"](0.8, stages=1), note="mine"), data, 0.2, engine)
    again = Plan.from_json(made.to_json())
    assert again == made and again.note == made.note and made.note.startswith("mine; calibrated")


def test_more_budget_is_more_c_and_questions_weigh_their_pictures(engine, data):
    few, many = (quiet(METHODS["sms"](0.8, stages=1), data, b, engine).cuts[0].select.c for b in (0.12, 0.3))
    assert few < many
    # One picture asked nine times outweighs the others, though it is looked at once.
    heavy = [*data, *[replace(data[0], id=f"again {i}") for i in range(8)]]
    made = quiet(METHODS["sms"](0.8, stages=1), heavy, 0.2, engine, tolerance=0.05)
    said = float(made.note.split("; ")[-1].split()[0])
    assert measured(engine, made, heavy) == pytest.approx(said, abs=1e-4)


def test_the_encoder_runs_once_a_picture(engine, data):
    calls = []
    handle = engine.model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    quiet(METHODS["sms"](0.8, stages=1), data, 0.2, engine)
    handle.remove()
    assert len(calls) == len({id(e.images[0]) for e in data}) < len(data)


@pytest.mark.parametrize(
    ("plan", "options", "error", "message"),
    [
        (
            METHODS["sms"](0.3, stages=1),
            {"budget": 0.5},
            FoveateError,
            r"out of reach: c between .* to 0\.3",
        ),
        (METHODS["sms"](0.9, stages=1), {"budget": 1.0}, PlanError, "budget is 1"),
        (METHODS["sms"](1.0, stages=1), {}, PlanError, "keeps every token"),
        (METHODS["divprune"](0.3), {}, PlanError, "no knob"),
        (METHODS["sms"](0.3), {"cut": 1}, PlanError, "cut 1 of the plan has no knob"),
        (METHODS["sms"](0.3), {"cut": 3}, PlanError, "cuts 0 to 2"),
        (METHODS["sms"](0.9, stages=1), {"tolerance": 1e-9}, FoveateError, "nearest mean budget"),
        (METHODS["sms"](0.9, stages=1), {"tolerance": 0.0}, FoveateError, "tolerance 0"),
    ],
)
def test_what_cannot_be_is_refused(engine, data, plan, options, error, message):
    with pytest.raises(error, match=message):
        quiet(plan, data[:3], **{"budget": 0.2, "engine": engine, **options})


def test_examples_without_pictures_are_refused(engine):
    with pytest.raises(FoveateError, match="without a picture"):
        quiet(METHODS["sms"](0.3), [Example("1", (), "what letter is red?")], 0.2, engine)


def test_what_is_looked_at_is_what_the_selector_asks_for():
    plan = counted(worded(METHODS["eadp"](0.5, text_tower="a clip"), words="content"))
    spy = Cut("input", _Recorder(plan.cuts[0].select), 0.5)
    assert spy.words == "content" and spy.select.text_tower == "a clip"
    assert not spy.sized and spy.between is None
