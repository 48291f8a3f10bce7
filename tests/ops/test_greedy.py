"""Farthest points and the balance of three criteria: exact, distinct, and the same by every road."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate.ops.cosine as cosine
from foveate.errors import PlanError, SignalError
from foveate.ops.balance import balance
from foveate.ops.cosine import Cosine
from foveate.ops.farthest import farthest

from . import naive
from .scenes import features, weights


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    b=st.integers(1, 3),
    n=st.integers(2, 40),
    d=st.integers(2, 16),
    kind=st.sampled_from(["normal", "clusters", "copies", "heavy"]),
    normalise=st.sampled_from(["mean", "minmax"]),
    mixture=st.sampled_from([(0.5, 0.5), (0.5, 1.0), (0.3, 0.2), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]),
    beta=st.sampled_from([1.0, 0.0]),
    data=st.data(),
)
def test_balance_is_the_naive_loop(seed, b, n, d, kind, normalise, mixture, beta, data):
    beta = beta if any(mixture) else 1.0
    k = data.draw(st.integers(1, n))
    x, relevance = features(seed, b, n, d, kind), weights(seed, b, n)
    found = balance(x, relevance, k, *mixture, normalise, beta=beta)
    every = torch.arange(n).expand(b, n)
    for image, similarity in enumerate(Cosine(x).rows(every).double().numpy()):
        expected = naive.balance(similarity, relevance[image].double().numpy(), k, *mixture, normalise, beta)
        if kind == "copies":  # copies tie exactly, and sums of relevances in another order may tip them
            assert len(set(found[image].tolist())) == k
        else:
            assert found[image].tolist() == expected


@pytest.mark.parametrize("normalise", ["mean", "minmax"])
def test_balance_is_the_naive_loop_at_full_size(normalise):
    x = features(5, 1, 576, 64).view(1, 24, 24, 64)
    x = (x.cumsum(1) + x.cumsum(2)).view(1, 576, 64)  # neighbours alike, as in a picture
    relevance = weights(5, 1, 576)
    found = balance(x, relevance, 128, normalise=normalise)[0].tolist()
    similarity = Cosine(x).rows(torch.arange(576)[None])[0].double().numpy()
    assert found == naive.balance(similarity, relevance[0].double().numpy(), 128, 0.5, 0.5, normalise)


def test_coverage_sums_are_exact_so_their_order_does_not_matter():
    """The reason for which updating the coverage gives what recomputing it gives, bit for bit."""
    row = Cosine(features(3, 1, 500, 32)).rows(torch.arange(500)[None])[0].double()
    shuffled = row[:, torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(row.sum(1), shuffled.sum(1))
    assert torch.equal(row.sum(1), row[:, :123].sum(1) + row[:, 123:].sum(1))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 40), d=st.integers(2, 16), data=st.data())
def test_farthest_are_those_of_the_full_distance_matrix(seed, n, d, data):
    k = data.draw(st.integers(1, n))
    x = features(seed, 2, n, d)
    found = farthest(x, k)
    for image, similarity in enumerate(Cosine(x).rows(torch.arange(n).expand(2, n))):
        others = similarity - 9 * torch.eye(n)
        first = int(found[image, 0])
        assert others[first].max() <= others.amax(1).min() + 1e-6, "its nearest other token is farthest"
        assert found[image].tolist() == naive.farthest(similarity.double().numpy(), first, k)


@pytest.mark.parametrize(("n", "chunk"), [(300, 1 << 20), (64, 300)])
def test_the_picks_do_not_depend_on_the_matrix_or_the_chunks(monkeypatch, n, chunk):
    x, relevance = features(1, 2, n, 48), weights(1, 2, n)
    run = lambda: (farthest(x, n // 3), balance(x, relevance, n // 3))  # noqa: E731
    with_matrix = run()
    monkeypatch.setattr(cosine, "GRAM_LIMIT", n - 1)
    monkeypatch.setattr(cosine, "CHUNK", chunk)
    monkeypatch.setattr("foveate.ops.balance.CHUNK", chunk)
    assert Cosine(x)._gram_MN is None
    without = run()
    assert all(torch.equal(a, b) for a, b in zip(with_matrix, without, strict=True))


def test_farther_apart_than_the_limit_there_is_no_matrix():
    n = cosine.GRAM_LIMIT + 1
    order = farthest(features(2, 1, n, 8), 5)
    assert len(set(order[0].tolist())) == 5


def test_copies_never_repeat_a_pick():
    x = torch.ones(2, 9, 4)
    for order in (farthest(x, 9), balance(x, torch.ones(2, 9), 9)):
        assert order.sort(1).values.tolist() == [list(range(9))] * 2
    assert farthest(torch.zeros(1, 3, 4), 3).sort(1).values.tolist() == [[0, 1, 2]]


def test_a_mutual_pair_does_not_make_the_answer_depend_on_the_order():
    x = features(4, 1, 12, 4, "clusters")
    x[0, 7] = -x[0].mean(0)
    x[0, 3] = x[0, 7] + 0.05  # 3 and 7 are far from all others and nearest to each other
    turn = torch.arange(11, -1, -1)
    assert sorted(farthest(x, 1)[0].tolist()) == sorted(turn[farthest(x[:, turn], 1)[0]].tolist())


def test_autocast_does_not_round_the_similarities():
    x = features(6, 1, 50, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = farthest(x, 20)
    assert torch.equal(inside, farthest(x, 20))


def test_no_gradient_graph_is_kept():
    x = features(6, 1, 10, 4).requires_grad_()
    assert not balance(x, weights(0, 1, 10).requires_grad_(), 4).requires_grad
    assert not Cosine(x.detach()).rows(torch.tensor([[0]])).requires_grad


@pytest.mark.parametrize("k", [0, -1, 11])
def test_a_count_out_of_range_is_refused(k):
    x = features(0, 1, 10, 4)
    with pytest.raises(PlanError, match=f"k is {k}"):
        farthest(x, k)
    with pytest.raises(PlanError, match=f"k is {k}"):
        balance(x, torch.ones(1, 10), k)


def test_nan_is_refused():
    x = features(0, 1, 10, 4)
    x[0, 3, 1] = float("nan")
    with pytest.raises(SignalError, match="NaN"):
        farthest(x, 2)
