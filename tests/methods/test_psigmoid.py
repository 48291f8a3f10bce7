"""P-Sigmoid meets its budget exactly, never grows, and says where its floor is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import PlanError
from foveate.methods.layerwise import layerwise
from foveate.methods.psigmoid import psigmoid
from foveate.ops.flops import LayerShape, visual_share
from foveate.selection import Attention

SHAPE = LayerShape(192, 512, 4, 2, 48)


def held(plan, depth, tokens=1.0):
    """What each layer sees, written out from the cuts."""
    out = []
    for layer in range(depth):
        done = [c.keep for c in plan.cuts if c.at == "input" or c.at <= layer]
        out.append(done[-1] if done else tokens)
    return out


budgets = {
    "depth": st.integers(2, 48),
    "slope": st.floats(0.05, 400),
    "share": st.floats(0.0, 1.0),
    "first": st.sampled_from(["full", "own", "cls", "spread"]),
}


@settings(max_examples=200, deadline=None)
@given(**budgets)
def test_the_mean_is_met_and_nothing_grows(depth, slope, share, first):
    floor = 1 / depth if first == "full" else 0.03
    keep = floor + share * (1 - floor)
    rates = held(psigmoid(keep, slope, depth=depth, first=first), depth)
    assert sum(rates) / depth == pytest.approx(keep, abs=1e-9)
    assert rates == sorted(rates, reverse=True)


@settings(max_examples=200, deadline=None)
@given(tokens=st.integers(16, 3000), **budgets)
def test_whole_numbers_meet_it_too(depth, slope, share, first, tokens):
    floor = 1 / depth if first == "full" else 2 / tokens
    keep = min(1.0, floor + share * (1 - floor))
    counts = held(psigmoid(keep, slope, depth=depth, first=first, tokens=tokens), depth, tokens)
    assert sum(counts) == round(keep * depth * tokens)
    assert counts == sorted(counts, reverse=True) and all(isinstance(c, int) for c in counts)


@settings(max_examples=100, deadline=None)
@given(depth=st.integers(2, 40), slope=st.floats(0.5, 60), share=st.floats(0.01, 1), top=st.floats(0.2, 1))
def test_a_budget_in_operations_is_met_to_the_last_token(depth, slope, share, top):
    tokens, text = 576, 20
    floor, ceiling = 1 / depth, visual_share(SHAPE, [tokens, *[tokens * top] * (depth - 1)], tokens, text)
    keep = floor + share * (ceiling - floor)
    plan = psigmoid(keep, slope, top, depth, tokens=tokens, shape=SHAPE, text=text)
    counts = held(plan, depth, tokens)
    got = visual_share(SHAPE, counts, tokens, text)
    one = visual_share(SHAPE, [tokens] * depth, tokens, text) - visual_share(
        SHAPE, [tokens - 1, *[tokens] * (depth - 1)], tokens, text
    )
    assert keep - one * depth <= got <= keep + 1e-9
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("depth", [6, 10, 28, 32, 80])
def test_without_a_depth_the_mean_holds_on_every_model(depth):
    assert sum(held(psigmoid(0.4).at_depth(depth), depth)) / depth == pytest.approx(0.4, rel=1e-6)


@pytest.mark.parametrize("depth", [6, 32])
def test_the_slope_means_the_same_at_every_depth(depth):
    steep, gentle = (held(psigmoid(0.5, slope, depth=depth), depth) for slope in (200.0, 0.5))
    assert steep[depth // 3] > 0.99 and steep[-depth // 4] == 0.0, "a cliff"
    assert max(gentle[1:]) - min(gentle[1:]) < 0.15, "nearly even"


def test_a_number_is_the_mean_of_the_layers_that_are_cut():
    plan = psigmoid(12, depth=10)
    assert sum(held(plan, 10)[1:]) == 12 * 9
    assert sum(held(psigmoid(100, depth=10, tokens=576), 10, 576)) == 1000


def test_a_number_of_tokens_or_an_upper_level():
    plan = psigmoid(0.125, 6.0, top=0.3, depth=10, first="cls")
    assert [c.at for c in plan.cuts][:2] == ["input", 1] and plan.cuts[0].keep <= 0.3
    assert psigmoid(0.3, attention="own", raters="text").cuts[0].select.attention == Attention("text", "own")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.05, "depth": 10}, "stays above 0.1; .*first=.cls"),
        ({"keep": 50, "depth": 10, "tokens": 576}, "stays above 0.1"),
        ({"keep": 0.9, "depth": 10, "top": 0.5}, "stays below 0.55; raise top"),
        ({"slope": 0.0}, "slope is 0.0"),
        ({"slope": float("nan")}, "slope is nan"),
        ({"top": 0.0}, "top is 0.0"),
        ({"top": 1.5}, "top is 1.5"),
        ({"depth": 1}, "at least 2"),
        ({"tokens": 576}, "also need depth"),
        ({"shape": SHAPE}, "needs tokens"),
        ({"first": "csl"}, "first is 'csl'; it must be \"full\""),
        ({"raters": "first"}, "raters is 'first'"),
        ({"depth": 10, "keep": 0.001, "first": "cls", "tokens": 20}, "not one of 20 tokens"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(PlanError, match=message):
        psigmoid(**{"keep": 0.4, **options})


@pytest.mark.parametrize(
    ("keeps", "message"),
    [([1.0, 0.2, 0.3], "grows from 0.2 at layer 1 to 0.3 at layer 2"), ([0.5, 0.2], "first layer"), ([], "first")],
)
def test_schedules_that_cannot_be(keeps, message):
    with pytest.raises(PlanError, match=message):
        layerwise(keeps)
