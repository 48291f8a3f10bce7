"""Intervals cover at their rate; tests have their size and their power. Seeds are fixed, so nothing here is luck."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from foveate import FoveateError
from foveate.bench import statistics
from foveate.bench.statistics import binary, bootstrap, compare, holm, interval, mcnemar, wilson

RNG = np.random.default_rng


def answers(rng: np.random.Generator, n: int, gain: float, discordant: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong answers of two ways: a share `discordant` differs, and b is better by `gain`."""
    u = rng.random(n)
    only_b, only_a = u < (discordant + gain) / 2, (u >= (discordant + gain) / 2) & (u < discordant)
    both = ~only_a & ~only_b & (rng.random(n) < 0.7)
    return (both | only_a).astype(float), (both | only_b).astype(float)


@pytest.mark.parametrize("n", [50, 200, 1000])
def test_wilson_covers_on_average(n: int) -> None:
    """Exactly, by summing over all outcomes: averaged over shares, 95%."""
    covered = []
    for p in np.linspace(0.05, 0.95, 61):
        inside = [low <= p <= high for low, high in (wilson(k, n) for k in range(n + 1))]
        covered.append(binom.pmf(np.arange(n + 1), n, p)[inside].sum())
    assert 0.945 < np.mean(covered) < 0.96
    assert min(covered) > 0.91


def test_the_bootstrap_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng, thirds = RNG(1), np.array([0.0, 1 / 3, 2 / 3, 1.0])
    shares = np.array([0.15, 0.15, 0.3, 0.4])
    truth = float(thirds @ shares)
    inside = 0
    for _ in range(300):
        low, high = interval(rng.choice(thirds, size=150, p=shares))
        inside += low <= truth <= high
    assert 0.92 <= inside / 300 <= 0.98


@pytest.mark.parametrize(("gain", "low", "high"), [(0.0, 0.01, 0.06), (0.1, 0.8, 1.0)])
def test_mcnemar_has_its_size_and_power(gain: float, low: float, high: float) -> None:
    rng = RNG(2)
    rejected = 0
    for _ in range(500):
        a, b = answers(rng, 300, gain)
        rejected += mcnemar(int(((a - b) > 0).sum()), int(((a - b) < 0).sum())) < 0.05
    assert low <= rejected / 500 <= high


@pytest.mark.parametrize(("gain", "low", "high"), [(0.0, 0.02, 0.085), (0.05, 0.8, 1.0)])
def test_the_paired_bootstrap_has_its_size_and_power(
    monkeypatch: pytest.MonkeyPatch, gain: float, low: float, high: float
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng = RNG(3)
    rejected = 0
    for _ in range(250):
        hard = rng.normal(0, 0.2, 200)  # shared by both ways: pairing has to take it out
        a, b = (0.5 + hard + rng.normal(0, 0.1, 200) for _ in range(2))
        rejected += compare(np.clip(a + gain, 0, 1), np.clip(b, 0, 1)).p < 0.05
    assert low <= rejected / 250 <= high


def test_the_interval_of_a_difference_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng = RNG(4)
    found = [compare(b, a) for a, b in (answers(rng, 250, 0.06) for _ in range(300))]
    assert 0.92 <= np.mean([f.low <= 0.06 <= f.high for f in found]) <= 0.98
    assert np.mean([f.difference for f in found]) == pytest.approx(0.06, abs=0.005)


def test_a_pair_of_right_and_wrong_is_tested_exactly() -> None:
    a, b = [1.0] * 12 + [0.0] * 3 + [1.0] * 85, [0.0] * 12 + [1.0] * 3 + [1.0] * 85
    found = compare(a, b)
    assert (found.test, found.better, found.worse) == ("mcnemar", 12, 3)
    assert found.p == binomtest(3, 15).pvalue
    assert found.difference == pytest.approx(0.09)
    back = compare(b, a)
    assert (back.difference, back.p) == (-found.difference, found.p)


def test_nothing_differs_from_itself() -> None:
    for scores in ([1.0, 0.0, 1.0], [0.3, 0.9, 0.0]):
        found = compare(scores, scores)
        assert (found.difference, found.p) == (0, 1)
        assert found.low == -found.high


@pytest.mark.parametrize("n", [1, 2, 6, 60])
def test_few_values_that_are_alike_prove_little(n: int) -> None:
    """The next value may be another: intervals have a width, and signs are alike by chance in 2 of 2^n cases."""
    low, high = interval([1 / 3] * n)
    assert 0 <= low < 1 / 3 < high <= 1 and high - low <= 4 / n
    found = compare([2 / 3] * n, [1 / 3] * n)
    assert found.low < found.difference < found.high
    assert found.p == max(2.0 ** (1 - n), 1 / 4001)
    # One that differs among many says nothing about which way.
    assert compare([0.3] + [0.5] * n, [0.5] * (n + 1)).p == 1


def test_the_same_every_time() -> None:
    scores = RNG(5).random(80)
    assert bootstrap(scores) == bootstrap(scores)


def test_partial_credit_is_seen() -> None:
    assert binary([0, 1, 1])
    assert not binary([0, 0.3, 1])
    assert compare([0.3, 1.0], [0.0, 1.0]).test == "bootstrap"


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 0.0]), ([], [])])
def test_only_the_same_questions_are_compared(a: list[float], b: list[float]) -> None:
    with pytest.raises(FoveateError, match="same questions"):
        compare(a, b)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_holds_the_chance_of_any_false_rejection() -> None:
    rng = RNG(6)
    false = np.mean([min(holm(list(rng.random(8)))) < 0.05 for _ in range(2000)])
    assert 0.03 < false <= 0.06
    # and is never below the uncorrected ones, in their order
    p = list(rng.random(8))
    adjusted = holm(p)
    assert all(q >= r for q, r in zip(adjusted, p, strict=True))
    assert [adjusted[i] for i in np.argsort(p)] == sorted(adjusted)
