"""Farthest points that stop at a distance: a net whose knots are apart, and near whatever they leave out."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import PlanError
from foveate.methods import METHODS
from foveate.ops.farthest import farthest, gaps
from foveate.plan import Plan
from foveate.selection import TokenView

make = METHODS["divprune"]


def features(seed, b, n, d=6):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def distances(x):
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    return 1 - unit @ unit.mT


def chosen(x, k, distance):
    return make(0.5, distance=distance).cuts[0].select(TokenView(hidden_BND=x), k).keep_BN


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 50), distance=st.floats(0, 2), data=st.data())
def test_it_stops_where_the_next_is_too_near_and_leaves_nothing_far_out(seed, n, distance, data):
    k = data.draw(st.integers(1, n))
    x = features(seed, 2, n)
    for far, order, keep in zip(distances(x), farthest(x, k).tolist(), chosen(x, k, distance), strict=True):
        count = int(keep.sum())
        want = [1]
        want += [int(far[order[i], order[:i]].min() >= distance) for i in range(1, k)]
        assert set(order[:count]) == set(keep.nonzero().flatten().tolist())
        near = [i for i in range(1, k) if abs(float(far[order[i], order[:i]].min()) - distance) < 1e-5]
        if not near:
            assert count == (want.index(0) if 0 in want else k)
        if count < k:
            assert far[:, keep].amin(1).max() < distance + 1e-5, "what is dropped is near something kept"


def test_gaps_are_those_of_the_picks_and_never_grow():
    x = features(1, 3, 40)
    order = farthest(x, 40)
    found = gaps(x, order)
    assert (found.diff(dim=1) <= 0).all() and (found[:, 0] == 2).all()
    for far, picks, gap in zip(distances(x), order, found, strict=True):
        for i in (1, 7, 39):
            torch.testing.assert_close(gap[i].double(), far[picks[i], picks[:i]].min(), rtol=0, atol=1e-5)


def test_a_larger_distance_keeps_fewer_of_the_same_and_none_stops_at_zero():
    x = features(2, 4, 60)
    nets = [chosen(x, 50, d) for d in (0.0, 0.3, 0.8, 2.0)]
    assert nets[0].sum(1).tolist() == [50] * 4 and nets[3].sum(1).tolist() == [1] * 4
    for many, few in pairwise(nets):
        assert not (few & ~many).any() and few.sum() < many.sum()


def test_copies_are_kept_once():
    x = features(3, 2, 10).repeat(1, 3, 1)
    assert chosen(x, 30, 1e-4).sum(1).tolist() == [10, 10]


def test_the_plan_goes_to_text_and_back_and_wrong_distances_are_refused():
    plan = make(0.5, distance=0.25)
    assert Plan.from_json(plan.to_json()) == plan != make(0.5)
    for wrong in (-0.1, 2.1, float("nan")):
        with pytest.raises(PlanError, match="distance is"):
            make(0.5, distance=wrong)
