"""On a made-up model whose needs are known, G-Search finds them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import FoveateError
from foveate.search.gsearch import grid, gsearch, searched

TOKENS, DEPTH = 576, 8


class World:
    """Each layer needs so many tokens; what it lacks is lost."""

    def __init__(self, needs):
        self.needs, self.asked = needs, []

    def __call__(self, schedules, layer):
        self.asked += [(layer, s) for s in schedules]
        return [sum(max(0.0, n / TOKENS - k) for n, k in zip(self.needs, s, strict=True)) for s in schedules]


def find(needs, **options):
    world = World(needs)
    found = gsearch(world, DEPTH, searched(DEPTH), lambda share: 1e-9 * share, TOKENS, **options)
    return [round(k * TOKENS) for k in found], world


@pytest.mark.parametrize("width", [1, 2, 3])
def test_needs_on_the_grid_are_found_exactly(width):
    needs = [576, 128, 64, 24, 24, 4, 1, 0]
    found, world = find(needs, width=width)
    assert found == needs
    assert len(world.asked) < 12 * DEPTH


@settings(max_examples=40, deadline=None)
@given(needs=st.lists(st.integers(0, 576), min_size=DEPTH - 1, max_size=DEPTH - 1), width=st.integers(1, 4))
def test_the_smallest_of_the_grid_that_suffices_and_never_growing(needs, width):
    needs = [576, *sorted(needs, reverse=True)]
    found, world = find(needs, width=width)
    counts = [round(g * TOKENS) for g in grid(TOKENS)]
    assert found == [576, *(min(c for c in counts if c >= n) for n in needs[1:])]
    assert all(list(s) == sorted(s, reverse=True) for _, s in world.asked)
    assert [layer for layer, _ in world.asked] == sorted(layer for layer, _ in world.asked)


def test_bayes_comes_close_and_never_below():
    needs = [576, 200, 100, 30, 30, 10, 2, 0]
    found, _ = find(needs, how="bayes", trials=10)
    assert all(f >= n for f, n in zip(found, needs, strict=True))
    assert sum(found[1:]) < 1.6 * sum(needs[1:])


def test_what_lies_below_a_failure_is_not_believed():
    """A lucky pass below a count that failed is not picked."""

    def losses(schedules, layer):
        return [0.0 if round(s[1] * TOKENS) in (0, 128, 192, 256, 384, 512) else 1.0 for s in schedules]

    found = gsearch(losses, 2, [1], lambda share: 0.5, TOKENS, width=20)
    assert round(found[1] * TOKENS) == 128


def test_the_tolerance_is_spread():
    """With all of it at the first layer, nothing would be left for the others."""
    seen = []

    def allowed(share):
        seen.append(share)
        return share

    gsearch(World([576] * DEPTH), DEPTH, searched(DEPTH), allowed, TOKENS)
    assert seen == pytest.approx([(i + 1) / 7 for i in range(7)])


def test_a_stride_leaves_layers_as_the_one_before():
    world = World([576, 100, 50, 40, 30, 20, 10, 5])
    found = gsearch(world, DEPTH, searched(DEPTH, 3), lambda share: 1e-9, TOKENS)
    assert found[1] == found[2] == found[3] > found[4] == found[5] == found[6] > found[7]
    assert searched(DEPTH, 3, first=True) == [0, 3, 6]
    with pytest.raises(FoveateError, match="stride is 0"):
        searched(DEPTH, 0)


def test_layers_that_are_left_whole_are_neither_searched_nor_cut():
    world = World([576, 100, 50, 40, 30, 20, 10, 5])
    found = gsearch(world, DEPTH, searched(DEPTH, whole=2), lambda share: 1e-9, TOKENS)
    assert found[:2] == (1.0, 1.0) and found[2] < 1 and min(layer for layer, _ in world.asked) == 2
    for words in (dict(whole=DEPTH), dict(whole=0), dict(first=True, whole=2)):
        with pytest.raises(FoveateError, match="whole"):
            searched(DEPTH, **words)


def test_the_grid_runs_from_none_to_all():
    for tokens in (1, 5, 36, 576, 2880):
        shares = grid(tokens)
        assert shares[0] == 0 and shares[-1] == 1 and shares == sorted(set(shares))
        assert all(abs(s * tokens - round(s * tokens)) < 1e-9 for s in shares)
