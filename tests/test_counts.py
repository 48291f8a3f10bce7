"""How many may stay: a number means at most, of each image or of a prompt's images together, with a floor if asked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate import Cut, Plan, PlanError
from foveate.methods import METHODS, method
from foveate.methods.uniform import Uniform
from foveate.ops.apportion import share

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=8)


def cut(keep, **rules):
    return Cut(rules.pop("at", "input"), Uniform(), keep, **rules)


@given(SIZES, st.integers(1, 400))
def test_a_number_is_at_most(sizes, keep):
    assert cut(keep).counts(sizes) == [min(keep, n) for n in sizes]


@given(SIZES, st.integers(1, 3000), st.integers(1, 40))
def test_shares(sizes, total, least):
    floor = [min(least, n) for n in sizes]
    if total < sum(floor):
        with pytest.raises(PlanError, match=f"at least {sum(floor)}"):
            share(total, sizes, least)
        return
    got = share(total, sizes, least)
    assert sum(got) == min(total, sum(sizes))
    assert all(f <= k <= n for f, k, n in zip(floor, got, sizes, strict=True))
    # More in all is less for nobody.
    assert all(a <= b for a, b in zip(got, share(total + 1, sizes, least), strict=True))


@given(st.lists(st.integers(50, 300), min_size=2, max_size=6), st.floats(0.05, 1))
def test_shares_are_in_proportion(sizes, part):
    total = max(len(sizes), round(part * sum(sizes)))
    # Within one token and a half of the exact share, where no floor and no size comes in between.
    for k, n in zip(share(total, sizes), sizes, strict=True):
        assert abs(k - total * n / sum(sizes)) <= 1.5


def test_equal_images_share_equally():
    assert share(64, [576, 576]) == [32, 32]
    assert share(3, [10, 10]) == [2, 1]
    assert cut(100, per="prompt").counts([576, 4, 144]) == [79, 1, 20]
    assert cut(100, per="prompt", least=10).counts([576, 4, 144]) == [77, 4, 19]
    assert cut(1000, per="prompt").counts([576, 4]) == [576, 4]


def test_a_floor():
    assert cut(0.1, least=16).counts([576, 100, 4]) == [58, 16, 4]
    assert cut(64, least=16).counts([576, 4]) == [64, 4]
    assert cut(0, least=16, at=3).counts([576]) == [0]


def test_the_refusal_is_there_for_who_asks():
    with pytest.raises(PlanError, match="there are only 4 tokens"):
        cut(64, exact=True).counts([576, 4])
    assert cut(64, exact=True).counts([576, 64]) == [64, 64]


@pytest.mark.parametrize(
    ("rules", "say"),
    [
        ({"per": "batch"}, "per is 'batch'"),
        ({"least": -1}, "least is -1"),
        ({"least": 1.5}, "least is 1.5"),
        ({"least": 80}, "least=80 is more than keep=64"),
        ({"per": "prompt", "at": "encoder"}, "which images make a prompt"),
        ({"per": "prompt", "over": "prompt"}, "speak of images"),
        ({"least": 3, "over": "prompt"}, "speak of images"),
    ],
)
def test_rules_that_mean_nothing(rules, say):
    with pytest.raises(PlanError, match=say):
        cut(64, **rules)
    with pytest.raises(PlanError, match="fraction"):
        cut(0.5, exact=True)


def test_there_and_back():
    plan = Plan((cut(0.5, least=4), cut(64, per="prompt", least=2, exact=True, at=3)))
    assert Plan.from_json(plan.to_json()) == plan
    assert '"least": 4' in plan.to_json()
    assert "exact" not in METHODS["divprune"](keep=64).to_json()
    assert plan.at_depth(8).cuts[1].per == "prompt"


def test_rules_for_a_whole_plan():
    plan = method("fastv", keep=64).with_counts(per="prompt", least=2)
    assert [(c.per, c.least) for c in plan.cuts] == [("prompt", 2)]
    # A cut over the whole prompt has one count as it is.
    assert METHODS["sms"](keep=0.5).with_counts(least=2).cuts[-1].least in (0, 2)


@pytest.mark.parametrize("name", ["divprune", "fastv", "pyramiddrop", "tops", "random", "sparsevlm", "feather", "clse"])
def test_numbers_of_numpy_are_numbers(name):
    make = METHODS[name]
    extra = {"depth": 32} if name == "tops" else {}
    assert make(keep=np.int64(100), **extra) == make(keep=100, **extra)
    for half in (np.float64(0.5), np.float32(0.5)):
        assert make(keep=half, **extra) == make(keep=0.5, **extra)
    assert Plan.from_json(make(keep=np.int32(100), **extra).to_json()) == make(keep=100, **extra)
    for nonsense in (np.bool_(True), True, "64", None, float("nan"), np.int64(0), np.float32(1.5)):
        with pytest.raises(PlanError):
            make(keep=nonsense, **extra)


def test_settings_and_layers_of_numpy_are_too():
    assert METHODS["visionzip"](0.5, contextual=np.int64(10)) == METHODS["visionzip"](0.5, contextual=10)
    assert METHODS["vtw"](keep=np.float32(0.5)) == METHODS["vtw"](keep=0.5)
    select = METHODS["divprune"](0.5).cuts[0].select
    assert Plan((Cut(np.int64(2), select, 0.5),)).to_json() == Plan((Cut(2, select, 0.5),)).to_json()
    for nowhere in (np.array([1, 2]), np.bool_(True), [2], None):
        with pytest.raises(PlanError, match="cut at"):
            Cut(nowhere, select, 0.5)
