"""Budgets over layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.errors import PlanError
from foveate.ops.budget import mean, solve_ratio, solve_shape, spans, whole

span_lists = st.lists(st.integers(1, 20), min_size=2, max_size=5)


def test_spans_are_the_stretches_between_cuts():
    assert spans((12, 24), 32) == [12, 12, 8]
    assert spans((), 32) == [32]
    assert spans((0, 4), 6) == [0, 4, 2]


@pytest.mark.parametrize("layers", [(4, 4), (8, 4), (-1, 4), (4, 32)])
def test_layers_outside_the_model_or_out_of_order_are_refused(layers):
    with pytest.raises(PlanError, match="must rise"):
        spans(layers, 32)


@given(target=st.floats(0.01, 1.0), span=span_lists, data=st.data())
def test_a_scaled_shape_meets_the_mean(target, span, data):
    shape = sorted(data.draw(st.lists(st.floats(0.1, 2), min_size=len(span), max_size=len(span))), reverse=True)
    keeps = solve_shape(target, shape, span)
    assert mean(keeps, span) == pytest.approx(target) and min(keeps) > 0 and max(keeps) <= 1


@given(target=st.floats(0.01, 1.0), span=span_lists)
def test_a_ratio_meets_the_mean_or_says_what_the_floor_is(target, span):
    floor = span[0] / sum(span)
    if target <= floor:
        with pytest.raises(PlanError, match="stays above"):
            solve_ratio(target, span)
    else:
        ratio = solve_ratio(target, span)
        assert mean([ratio**i for i in range(len(span))], span) == pytest.approx(target)


@given(
    keeps=st.lists(st.floats(1, 500), min_size=3, max_size=3), span=st.lists(st.integers(1, 20), min_size=3, max_size=3)
)
def test_whole_numbers_never_rise_and_keep_the_mean(keeps, span):
    keeps.sort(reverse=True)
    out = whole(keeps, span)
    assert out == sorted(out, reverse=True) and min(out) >= 1
    if min(keeps) > 30 and keeps[0] > keeps[1] + 25 and keeps[1] > keeps[2] + 25:  # nothing is held at a limit
        assert sum(a * s for a, s in zip(out, span, strict=True)) == pytest.approx(
            sum(a * s for a, s in zip(keeps, span, strict=True)), abs=span[-1] / 2 + 1e-6
        )
