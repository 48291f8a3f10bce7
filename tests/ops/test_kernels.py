"""Coverage, residual, farthest and suppression: the picks of the loops written out, with weights and starts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate.ops.cosine as cosine
from foveate.errors import PlanError, SignalError
from foveate.ops.coverage import cover, coverage
from foveate.ops.farthest import farthest
from foveate.ops.residual import residual
from foveate.ops.start import fill
from foveate.ops.suppress import peaks, suppress

from . import naive
from .scenes import KINDS, features, plain, similarities, starts, weights

scenes = {
    "seed": st.integers(0, 10**6),
    "n": st.integers(2, 40),
    "d": st.integers(2, 16),
    "kind": st.sampled_from(KINDS),
    "started": st.booleans(),
    "data": st.data(),
}


def drawn(seed, n, d, kind, started, data):
    """k, features, weights and start of two images."""
    k = data.draw(st.integers(1, n))
    start = starts(seed, 2, n, min(k, 3)) if started else None
    return k, features(seed, 2, n, d, kind), weights(seed, 2, n), start


def rows(start):
    return [[], []] if start is None else [plain(row) for row in start]


@settings(max_examples=60, deadline=None)
@given(**scenes, floor=st.sampled_from([0.0, -1.0]), which=st.sampled_from(["none", "covered", "value", "bonus"]))
def test_coverage_is_the_full_recomputation(seed, n, d, kind, started, data, floor, which):
    k, x, w, start = drawn(seed, n, d, kind, started, data)
    one, nil = torch.ones_like(w), torch.zeros_like(w)
    parts = [w if which == name else other for name, other in (("covered", one), ("value", one), ("bonus", nil))]
    found = coverage(x, k, *(p if which != "none" else None for p in parts), start, floor)
    for image, (similarity, given_) in enumerate(zip(similarities(x), rows(start), strict=True)):
        expected = naive.coverage(similarity, k, *(p[image].double().numpy() for p in parts), given_, floor)
        assert_same_gains(similarity, found[image].tolist(), expected, parts, image, floor)


def assert_same_gains(similarity, found, expected, parts, image, floor):
    """The same picks, or picks of the same gain: sums of weighted terms in another order may tip a tie."""
    if found == expected:
        return
    assert len(set(found)) == len(found)
    weight, value, bonus = (p[image].double().numpy() for p in parts)
    at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    best = np.maximum(floor, similarity[found[:at]].max(0, initial=floor))
    gains = bonus + value * (np.maximum(0, similarity - best) * weight).sum(1)
    assert gains[found[at]] == pytest.approx(gains[expected[at]], rel=1e-12, abs=1e-12)


def test_cover_takes_any_matrix():
    g = torch.Generator().manual_seed(0)
    matrix = torch.rand(2, 7, 30, generator=g, dtype=torch.float64) ** 6
    found = cover(matrix, 12)
    for rows_RN, order in zip(matrix.numpy(), found.tolist(), strict=True):
        assert order == naive.coverage(rows_RN.T, 12, np.ones(7), np.ones(30), np.zeros(30))
    with pytest.raises(PlanError, match="NaN"):
        cover(torch.full((1, 2, 3), torch.nan), 1)


@settings(max_examples=60, deadline=None)
@given(**scenes, cap=st.sampled_from([2.0, 1.0]))
def test_weighted_farthest_is_the_loop(seed, n, d, kind, started, data, cap):
    k, x, w, start = drawn(seed, n, d, kind, started, data)
    found = farthest(x, k, w, start, cap)
    for image, (similarity, given_) in enumerate(zip(similarities(x), rows(start), strict=True)):
        first = given_ or [int(found[image, 0])]
        assert found[image].tolist() == naive.weighted_farthest(similarity, k, w[image].double().numpy(), first, cap)
        if start is None:
            value = w[image].double().numpy() * (1 - (similarity - 9 * np.eye(n)).max(1))
            assert value[first[0]] >= value.max() - 1e-6, "its nearest other token is farthest"


@settings(max_examples=60, deadline=None)
@given(**scenes, weighted=st.booleans())
def test_residual_is_explicit_gram_schmidt(seed, n, d, kind, started, data, weighted):
    k, x, w, start = drawn(seed, n, d, kind, started, data)
    found = residual(x, k, w if weighted else None, start)
    for image, given_ in enumerate(rows(start)):
        weight = w[image].double().numpy() if weighted else np.ones(n)
        expected = naive.residual(x[image].double().numpy(), k, weight, given_)
        assert plain(found[image]) == expected
        rank = int(np.linalg.matrix_rank(x[image].double().numpy()))
        assert len(expected) >= min(k, rank), "it ends where the rank ends, not before"
        assert not started or found[image, : len(given_)].tolist() == given_
        assert started or len(expected) <= rank


def test_scaling_rows_is_weighting_by_the_square():
    x, w = features(3, 2, 50, 32), weights(3, 2, 50) + 0.1
    assert torch.equal(residual(x, 20, w), residual(x.double() * w.double().sqrt()[..., None], 20))


def test_half_precision_is_read_as_it_is():
    x = features(8, 2, 60, 24).bfloat16()
    for kernel in (residual, farthest, coverage):
        assert torch.equal(kernel(x, 20), kernel(x.float(), 20))


@settings(max_examples=60, deadline=None)
@given(**scenes, hard=st.sampled_from([None, 0.3, "growing"]), soften=st.sampled_from([None, "square", "linear"]))
def test_suppression_is_the_loop(seed, n, d, kind, started, data, hard, soften):
    k, x, w, _ = drawn(seed, n, d, kind, False, data)
    radius = torch.linspace(0.0, 1.0, k, dtype=torch.float64) if hard == "growing" else hard
    found = suppress(x, w, k, radius, soften)
    each = None if hard is None else torch.as_tensor(radius, dtype=torch.float64).expand(k).numpy()
    for image, similarity in enumerate(similarities(x)):
        expected = naive.suppress(similarity, w[image].double().numpy(), k, each, soften)
        assert plain(found[image]) == expected and (found[image, len(expected) :] == -1).all()


def test_suppression_starts_from_what_is_given():
    x, w = features(1, 2, 30, 4), weights(1, 2, 30)
    start = starts(1, 2, 30, 3)
    found = suppress(x, w, 12, 0.1, start_BS=start)
    for row, given_, similarity in zip(found, rows(start), similarities(x), strict=True):
        picks = plain(row)
        assert picks[: len(given_)] == given_
        later = picks[len(given_) :]
        assert all(1 - similarity[i, j] >= 0.1 for n, i in enumerate(picks) if i in later for j in picks[:n])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 30), kind=st.sampled_from(KINDS), reverse=st.booleans())
def test_peaks_are_the_formula(seed, n, kind, reverse):
    x, score = features(seed, 2, n, 6, kind), (weights(seed, 2, n) * 8).round() / 8
    for found, similarity, s in zip(peaks(x, score, reverse), similarities(x), score.double().numpy(), strict=True):
        np.testing.assert_allclose(found.numpy(), naive.peaks(similarity, s, reverse), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [70, 33])
def test_the_picks_do_not_depend_on_the_matrix(monkeypatch, n):
    x, w = features(1, 2, n, 48), weights(1, 2, n)
    run = lambda: [coverage(x, 20, w), farthest(x, 20, w), suppress(x, w, 20, 0.5, "square"), peaks(x, w)]  # noqa: E731
    whole = run()
    monkeypatch.setattr(cosine, "GRAM_LIMIT", n - 1)
    monkeypatch.setattr(cosine, "CHUNK", 300)
    for a, b in zip(whole, run(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_a_batch_is_its_images_one_by_one():
    x, w, start = features(2, 3, 40, 12, "clusters"), weights(2, 3, 40), starts(2, 3, 40, 4)
    for kernel in (
        lambda x, w, s: coverage(x, 15, w, start_BS=s),
        lambda x, w, s: farthest(x, 15, w, s),
        lambda x, w, s: residual(x, 15, w, s),
        lambda x, w, s: suppress(x, w, 15, 0.2, "linear", s),
    ):
        alone = torch.cat([kernel(x[i : i + 1], w[i : i + 1], start[i : i + 1]) for i in range(3)])
        assert torch.equal(kernel(x, w, start), alone)


def test_all_equal_tokens_and_zero_rows_give_what_is_there():
    same, zero = torch.ones(2, 9, 4), torch.zeros(1, 5, 4)
    every = [list(range(9))] * 2
    for x in (same, same.half() * 1000):
        assert coverage(x, 9).tolist() == every and farthest(x, 9).tolist() == every
        assert residual(x, 9).tolist() == [[0] + [-1] * 8] * 2
        assert suppress(x, torch.ones(2, 9), 9, 0.5).tolist() == [[0] + [-1] * 8] * 2
    assert residual(zero, 2).tolist() == [[-1, -1]]
    assert coverage(zero, 5).sort(1).values.tolist() == farthest(zero, 5).sort(1).values.tolist() == [list(range(5))]


def test_filling_up():
    order = torch.tensor([[3, -1, -1], [0, 2, -1], [1, 2, 0]])
    score = torch.tensor([[1.0, 5, 5, 9], [9.0, 1, 9, 2], [0.0, 0, 0, 0]])
    assert fill(order, score).tolist() == [[3, 1, 2], [0, 2, 3], [1, 2, 0]]
    assert fill(torch.full((1, 3), -1), torch.tensor([[0.0, -torch.inf, 1.0]])).tolist() == [[2, 0, 1]]


@pytest.mark.parametrize(
    ("start", "message"),
    [([[1, 1]], "twice"), ([[-1, 2]], "at least one"), ([[0, 10]], "tokens 0 to 9"), ([[0, -1, 3]], "after the last"),
     ([list(range(6))], "at most k=5"), ([[0], [1]], "shape")],
)  # fmt: skip
def test_a_start_that_is_none_is_refused(start, message):
    for kernel in (farthest, coverage, residual):
        with pytest.raises(PlanError, match=message):
            kernel(features(0, 1, 10, 4), 5, start_BS=torch.tensor(start))


@pytest.mark.parametrize("k", [0, 11])
def test_a_count_out_of_range_is_refused(k):
    x, score = features(0, 1, 10, 4), torch.ones(1, 10)
    for call in (lambda: farthest(x, k), lambda: coverage(x, k), lambda: residual(x, k), lambda: suppress(x, score, k)):
        with pytest.raises(PlanError, match=f"k is {k}"):
            call()


def test_what_cannot_be_compared_is_refused():
    for bad in (torch.nan, torch.inf):
        x = features(0, 1, 10, 4)
        x[0, 3, 1] = bad
        for call in (lambda: coverage(x, 2), lambda: residual(x, 2), lambda: peaks(x, torch.ones(1, 10))):  # noqa: B023
            with pytest.raises(SignalError, match="NaN"):
                call()


def test_options_that_mean_nothing_are_refused():
    x, score = features(0, 1, 10, 4), torch.ones(1, 10)
    with pytest.raises(PlanError, match="tolerance is 1"):
        residual(x, 2, tolerance=1.0)
    with pytest.raises(PlanError, match="soften is 'cubic'"):
        suppress(x, score, 2, soften="cubic")
    with pytest.raises(PlanError, match="radius has shape"):
        suppress(x, score, 2, torch.ones(3))
