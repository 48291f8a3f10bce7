"""The knee is where the formula says, and moves as its parameters say."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import PlanError, SignalError
from foveate.ops.knee import knee

from . import naive


def curve(seed, b, n, kind="uniform"):
    x = torch.rand(b, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"uniform": x, "heavy": x**8, "attention": (6 * x).softmax(1), "steps": (x * 4).round()}[kind]


curves = {
    "seed": st.integers(0, 10**6),
    "n": st.integers(1, 60),
    "kind": st.sampled_from(["uniform", "heavy", "attention", "steps"]),
    "c": st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 8.0]),
    "quantile": st.sampled_from([1.0, 0.99, 0.9, 0.5]),
}


@settings(max_examples=150, deadline=None)
@given(**curves)
def test_it_is_the_formula(seed, n, kind, c, quantile):
    x = curve(seed, 3, n, kind)
    for row, head in zip(x, knee(x, c, quantile).tolist(), strict=True):
        f = naive.knee(row, c, quantile)
        # By value, not by place: a curve of steps may have its largest f at two places.
        assert f[head - 1] == pytest.approx(max(f), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(**curves)
def test_a_larger_c_never_keeps_less(seed, n, kind, c, quantile):
    x = curve(seed, 3, n, kind)
    assert (knee(x, 1.7 * c, quantile) >= knee(x, c, quantile)).all()


@settings(max_examples=100, deadline=None)
@given(**curves, shift=st.sampled_from([-8.0, 1.0]), scale=st.sampled_from([0.25, 1024.0]))
def test_shift_scale_and_order_change_nothing(seed, n, kind, c, quantile, shift, scale):
    # In whole numbers, so that neither shifting nor scaling rounds.
    x = (curve(seed, 2, n, kind) * 4096).round()
    found = knee(x, c, quantile)
    assert torch.equal(knee((x + shift) * scale, c, quantile), found)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(knee(x[:, order], c, quantile), found)


def test_under_a_line_the_head_is_the_share_that_the_exponent_says():
    line = torch.arange(576, 0, -1.0)[None]
    assert [int(knee(line, c)) for c in (1.0, 2.0, 4.0)] == [pytest.approx(576 * c / (1 + c), abs=2) for c in (1, 2, 4)]


def test_the_guard_stops_an_outlier_from_making_everything_tail():
    x = torch.cat((torch.linspace(2.0, 1.5, 50), torch.rand(450, generator=torch.Generator().manual_seed(0)) * 0.2))
    outlier = x.clone()
    outlier[0] = 500.0
    plain, guarded = (knee(outlier[None], 1.0, q) for q in (1.0, 0.99))
    assert int(plain) == 2
    assert 40 <= int(guarded) <= 80
    assert abs(int(guarded) - int(knee(x[None], 1.0, 0.99))) <= 1


def test_a_flat_row_is_all_head_and_a_peak_is_found_behind_the_guard():
    assert knee(torch.ones(2, 7), 2.0, 0.99).tolist() == [7, 7]
    peak = torch.zeros(1, 1000)
    peak[0, 3] = 1.0
    assert knee(peak, 2.0, 0.99).tolist() == [2]


@pytest.mark.parametrize(("c", "quantile", "message"), [(0, 1.0, "c is 0"), (-1.0, 1.0, "c is -1"), (2, 0, "quantile")])
def test_what_means_nothing_is_refused(c, quantile, message):
    with pytest.raises(PlanError, match=message):
        knee(torch.ones(1, 4), c, quantile)


def test_nan_is_refused():
    with pytest.raises(SignalError, match="NaN"):
        knee(torch.tensor([[1.0, float("nan")]]), 2.0)
