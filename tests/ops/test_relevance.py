"""Transforms keep the order, and do what they say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.ops.relevance import transform


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["none", "rank", "log", "clip"]))
def test_the_order_never_turns_around_and_nothing_is_negative(seed, kind):
    x = torch.rand(2, 30, generator=torch.Generator().manual_seed(seed)) ** 5
    x[0, :3] = 0
    out = transform(x, kind)
    by_size = out.gather(1, x.argsort(1))
    assert (by_size.diff(dim=1) >= 0).all() and (out >= 0).all() and out.isfinite().all()


def test_the_transforms_on_numbers():
    x = torch.tensor([[0.1, 0.4, 0.4, 0.2, 0.8]])
    assert transform(x, "rank").tolist() == [[0.0, 0.5, 0.5, 0.25, 1.0]]
    torch.testing.assert_close(transform(x, "log"), torch.tensor([[1.0, 4, 4, 2, 8]]).log())
    torch.testing.assert_close(transform(x, "clip", 0.5), torch.tensor([[0.1, 0.4, 0.4, 0.2, 0.4]]))
    assert transform(torch.zeros(1, 3), "log").tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", ["rank", "log", "clip"])
def test_one_token(kind):
    assert transform(torch.tensor([[0.3]]), kind).shape == (1, 1)
