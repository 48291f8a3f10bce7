"""Searches on a made-up model: killed and begun again they end with the same plan, which carries its evidence."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest

from alltypes import tiny
from foveate import FoveateError, Plan, PlanError
from foveate.data import Example
from foveate.methods import METHODS
from foveate.search import session as module
from foveate.search.auto import choose, explore, front
from foveate.search.halves import split
from foveate.search.knobs import SERVED
from foveate.search.outcome import Outcome
from foveate.search.plot import draw, schedule_of
from foveate.search.schedules import Effort, find_schedule, find_slope
from foveate.search.session import Facts, Session
from foveate.search.study import Study
from foveate.servable import servable

DEPTH, TOKENS = 8, 576
NEEDS = [576, 128, 64, 24, 24, 4, 1, 0]
DATA = [Example(str(i), (f"{i // 2}.png",), "?", ("yes",)) for i in range(1200)]  # type: ignore[arg-type]


class Fake:
    """Loses answers for tokens that a layer lacks; an example each for every so many."""

    calls = 0
    stop_at: int | None = None

    def __init__(self, engine, examples, metric, *_):
        self.n, self.metric = len(examples), metric
        self.progress = lambda: None
        self.full = Outcome((1.0,) * self.n, 1.0, 1.0)
        self.batches = []

    def evaluate(self, plan, shared=1):
        type(self).calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        self.progress()
        keeps = [min(1.0, k if isinstance(k, float) else k / TOKENS) for k in schedule_of(plan, DEPTH)]
        lack = sum(max(0.0, n / TOKENS - k) for n, k in zip(NEEDS, keeps, strict=True))
        lost = min(self.n, math.ceil(self.n * lack))
        cost = sum(keeps) / DEPTH
        return Outcome((0.0,) * lost + (1.0,) * (self.n - lost), cost, cost)


@pytest.fixture
def begin(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "Evaluator", Fake)
    monkeypatch.setattr(Session, "facts", lambda self: Facts(TOKENS, True, 12))
    monkeypatch.setattr(Session, "takes", lambda self, plan: True)
    engine = SimpleNamespace(facts=SimpleNamespace(depth=DEPTH, model_type="fake"))

    def make(name="s", metric="exact", data=DATA):
        Fake.calls, Fake.stop_at = 0, None
        study = Study(tmp_path / f"{name}.journal", "s", {})
        return Session(engine, split(data), metric, study)

    return make


SEARCHES = {
    "grid": lambda s: find_schedule(s, 0.01),
    "bayes": lambda s: find_schedule(s, 0.01, how="bayes", stride=3, effort=Effort(5)),
    "slope": lambda s: find_slope(s, 0.3, tune_top=True, effort=Effort(7)),
    "auto": lambda s: choose(s, explore(s, 20), max_loss=0.05),
}


@pytest.mark.parametrize("which", SEARCHES)
def test_killed_and_begun_again_it_ends_with_the_same_plan(begin, which):
    want = SEARCHES[which](begin("whole"))
    calls = Fake.calls
    for stop in (1, 3, 5):
        s = begin("broken")
        Fake.stop_at = stop
        with pytest.raises(KeyboardInterrupt):
            SEARCHES[which](s)
    got = SEARCHES[which](begin("broken"))
    assert got == want and got.made == want.made
    assert Fake.calls == calls - (0 + 2 + 4), "what was evaluated before the kills was not evaluated again"
    begun = begin("broken")
    assert SEARCHES[which](begun) == want and Fake.calls == 0


def test_the_plan_says_how_it_was_made_and_what_it_did(begin):
    plan = find_schedule(begin(), 0.01)
    assert round(plan.made["schedule"][0] * TOKENS) == 576
    assert plan.made["held_out"]["examples"] == 600 and plan.made["search"]["examples"] == 600
    assert plan.made["search"]["loss"] <= 0.01 <= plan.made["held_out"]["upper"] < 0.03
    assert "did not see" in plan.note and plan.note.startswith("G-Search")
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.made == plan.made


def test_a_tolerance_that_the_data_cannot_resolve(begin):
    few = begin("few", data=DATA[:100])
    assert find_schedule(few, 0.1).made["search"]["loss"] <= 0.1
    # The tolerance is never finer than the data: see promise.check_tolerance, which the command asks first.


def test_the_best_slope_is_the_least_loss_that_was_tried(begin):
    plan = find_slope(begin(), 0.3, effort=Effort(9))
    tried = plan.made["tried"]
    assert len(tried) == 9 and len({t["slope"] for t in tried}) == 9
    assert plan.made["search"]["loss"] == min(t["loss"] for t in tried)
    assert plan.made["budget"] == pytest.approx(0.3, abs=1e-3)
    with pytest.raises(PlanError, match=r"stays above 0.125"):
        find_slope(begin("low"), 0.1)


def test_auto_gives_the_cheapest_that_is_proven(begin):
    s = begin()
    points = explore(s, 40)
    best = front(points)
    assert all(a.cost > b.cost and a.loss < b.loss for a, b in pairwise(best))
    plan = choose(s, points, max_loss=0.05)
    assert plan.made["asked"] == {"max_loss": 0.05, "proven": True}
    assert plan.made["held_out"]["upper"] <= 0.05
    cheap = choose(s, points, budget=0.25)
    assert cheap.made["visual_flops"] <= 0.25
    within = [p.loss for p in points if p.cost <= 0.25]
    assert cheap.made["search"]["loss"] == pytest.approx(min(within))


def test_what_is_looked_for_among_servable_plans_can_be_served(begin):
    points = explore(begin("served"), 15, near=0.3, served=True)
    assert {p.method for p in points} == set(SERVED)
    assert [servable(p.plan) for p in points] == [None] * 15


def test_what_a_model_refuses_is_not_tried(begin, monkeypatch):
    """Its layers may attend to nothing: plans that read their attention ended the whole search."""
    monkeypatch.setattr(Session, "takes", lambda self, plan: "text_attn_BN" not in plan.reads)
    points = explore(begin("some"), 12, near=0.5)
    assert {p.method for p in points} == {"divprune", "fastervlm"}
    monkeypatch.setattr(Session, "takes", lambda self, plan: False)
    with pytest.raises(FoveateError, match="refuses every method"):
        explore(begin("none"), 12)


@pytest.mark.parametrize(
    ("plan", "fits"), [(METHODS["fastv"](keep=0.5, layer=2), True), (METHODS["fastv"](keep=0.5, layer=1), False)]
)
def test_whether_a_model_takes_a_plan_is_asked_of_it(plan, fits, tmp_path):
    """Every second layer of this Qwen3.5 attends, and not the first."""
    engine = SimpleNamespace(model=tiny.build("qwen3_5"), facts=SimpleNamespace(depth=4, model_type="qwen3_5"))
    session = Session(engine, split(DATA), "exact", Study(tmp_path / "s.journal", "s", {}))
    assert session.takes(plan) == fits


def test_within_a_loss_every_method_goes_down_until_it_loses_more(begin):
    points = explore(begin("down"), 24, width=4, within=0.05)
    begun = points[:16]
    assert len({p.method for p in begun[:6]}) == 6 and all(p.cost > 0.5 for p in begun[:6])
    for name in {p.method for p in points}:
        ways = [p for p in begun if p.method == name]
        assert all(later.cost < sooner.cost for sooner, later in pairwise(ways))
        assert all(p.loss <= 0.05 for p in ways[:-1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--max-loss or --budget"),
        ({"max_loss": 0.1, "budget": 0.5}, "--max-loss or --budget"),
        ({"budget": 1e-6}, "no plan tried costs"),
        ({"max_loss": -0.5}, "no plan tried loses"),
    ],
)
def test_auto_refuses_what_cannot_be(begin, options, message):
    s = begin()
    with pytest.raises(FoveateError, match=message):
        choose(s, explore(s, 3), **options)


def test_halves_share_no_picture():
    halves = split(DATA[:100], seed=3)
    assert not {e.images for e in halves.search} & {e.images for e in halves.held}
    assert len(halves.search) == len(halves.held) == 50
    assert split(DATA[:100], seed=3) == halves != split(DATA[:100], seed=4)
    with pytest.raises(FoveateError, match="at least 40"):
        split(DATA[:39])
    one = [Example(str(i), ("one.png",), "?", ("yes",)) for i in range(80)]
    with pytest.raises(FoveateError, match="1 pictures cannot be halved"):
        split(one)


def test_the_plot_is_a_picture(begin, tmp_path):
    plan = find_slope(begin(), 0.3, effort=Effort(2))
    assert draw(plan, DEPTH, [(0.3, 0.1), (0.3, 0.2)], "exact", tmp_path / "p.png").stat().st_size > 5000


def test_few_trials_begin_near_what_is_asked_and_say_how_far_they_stayed(begin):
    near = begin("near")
    points = explore(near, 6, near=0.3)
    assert len({p.method for p in points}) == 6 and max(p.cost for p in points) <= 0.5
    plan = choose(near, points, budget=0.3)
    assert 0.15 <= plan.made["visual_flops"] <= 0.3 and "nearest" not in plan.made["asked"]
    # Of plans that were tried elsewhere, the one that is left is named, and the nearest on the other side.
    far = [p for p in explore(near, 40) if not 0.05 < p.cost < 0.6]
    asked = choose(near, far, budget=0.55).made["asked"]
    assert "costs 0.0" in asked["nearest"] and "loses" in asked["nearest"] and "costs" in asked["nearest_above"]
    with pytest.raises(FoveateError, match=r"the nearest: \w+, which costs .* and loses .*; raise"):
        choose(near, points, budget=1e-6)
