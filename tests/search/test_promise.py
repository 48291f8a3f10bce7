"""Bounds hold as often as they say, and tolerances that data cannot resolve are refused."""

from math import comb

import numpy as np
import pytest

from foveate.errors import FoveateError
from foveate.search.promise import check_resolved, check_tolerance, examples_needed, promise


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("p", [0.005, 0.03, 0.2])
def test_the_exact_bound_covers_at_every_true_loss(n, p):
    covered = sum(
        comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if promise([1.0] * k + [0.0] * (n - k), one_way=True).upper >= p
    )
    assert covered >= 0.95


def test_lost_and_won_answers_are_bounded_together():
    n, lost, won = 12, 0.25, 0.1
    stay = 1 - lost - won
    covered = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            chance = comb(n, a) * comb(n - a, b) * lost**a * won**b * stay ** (n - a - b)
            bound = promise([1.0] * a + [-1.0] * b + [0.0] * (n - a - b))
            covered += chance * (bound.upper >= lost - won)
    assert covered >= 0.95


def test_graded_losses_are_bounded_the_same_way_each_time():
    losses = [0.0, 0.3, -0.2, 0.6, 0.1, 0.0, 0.05] * 6
    first, again = promise(losses), promise(losses)
    assert first == again and first.loss < first.upper < 0.6 and "weights" in first.how
    assert promise(losses, 0.99).upper > first.upper
    assert promise(losses, most=4.6).upper > first.upper


@pytest.mark.parametrize(("n", "p"), [(30, 0.02), (100, 0.02), (60, 0.3)])
def test_what_is_rare_and_dear_is_allowed_for(n, p):
    # Two nats, rarely, and else next to nothing: a sample often has no such loss in it.
    rng = np.random.default_rng(0)
    draws = [rng.normal(0, 0.01, n) + 2 * (rng.random(n) < p) for _ in range(200)]
    covered = sum(promise(d.tolist(), most=4.6).upper >= 2 * p for d in draws)
    assert covered >= 190


def test_losses_of_zero_and_one_have_the_same_bound_either_way():
    # A quantile of 9,999 draws: its standard error is below 1 % of it.
    for lost in (0, 3):
        exact = promise([1.0] * lost + [0.0] * (50 - lost), one_way=True).upper
        graded = promise([1.0] * lost + [0.0] * (49 - lost) + [1e-9]).upper
        assert graded == pytest.approx(exact, rel=0.03)


def test_nothing_lost_is_no_proof_that_nothing_can_be():
    assert promise([0.0] * 50).upper > 0.05
    assert promise([0.0] * 500, one_way=True).upper == pytest.approx(1 - 0.05 ** (1 / 500))
    assert "at most 7.11 points with 95% confidence" in promise([0.0] * 50).sentence("exact")


def test_losses_all_alike_promise_no_more_than_others():
    # What is lost once may be more than a whole answer, and what is won each time less than one.
    assert promise([0.0] * 100, most=4.6).upper == pytest.approx(4.6 * (1 - 0.05 ** (1 / 100)), rel=0.03)
    assert promise([-0.5] * 200).upper > -0.5


def test_no_examples_no_promise():
    with pytest.raises(FoveateError, match="no examples are left"):
        promise([])


def test_the_finest_tolerance_follows_from_the_number_of_examples():
    assert examples_needed(0.01) == 400
    check_tolerance(0.01, 400)
    with pytest.raises(FoveateError, match="give at least 400, or tolerate"):
        check_tolerance(0.01, 396)
    for wrong in (0.0, -0.1, 1.5):
        with pytest.raises(FoveateError, match="the tolerance is"):
            check_tolerance(wrong, 1000)


def test_likelihoods_are_resolved_by_their_spread():
    losses = [0.1, -0.1] * 50
    check_resolved(0.021, losses)
    with pytest.raises(FoveateError, match=r"give at least 40\d, or tolerate 0.02"):
        check_resolved(0.01, losses)
