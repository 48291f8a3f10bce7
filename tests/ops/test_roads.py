"""Compiled for the CPU, a few candidates at a time, or all at once: the same picks by every road."""

import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foveate.ops.cosine as cosine
from foveate.ops import roads, steady
from foveate.ops.balance import balance
from foveate.ops.coverage import cover, coverage
from foveate.ops.farthest import farthest
from foveate.ops.residual import residual
from foveate.ops.suppress import suppress

from .scenes import KINDS, features, starts, weights

KERNELS = {
    "farthest": lambda x, w, k, s: farthest(x, k, None, s),
    "farthest weighted": lambda x, w, k, s: farthest(x, k, w, s, cap=1.0),
    "balance by mean": lambda x, w, k, s: balance(x, w, k, 0.4, 0.7, start_BS=s),
    "balance by range": lambda x, w, k, s: balance(x, w, k, normalise="minmax", start_BS=s),
    "balance of two": lambda x, w, k, s: balance(x, w, k, lam=0.0, start_BS=s),
    "coverage": lambda x, w, k, s: coverage(x, k, value_BN=w, start_BS=s),
    "coverage weighted": lambda x, w, k, s: coverage(x, k, w, bonus_BN=w, start_BS=s, floor=-1.0),
    "cover": lambda x, w, k, s: cover(x.mT.abs(), k, start_BS=s),
    "residual": lambda x, w, k, s: residual(x, k, w, s),
    "suppress": lambda x, w, k, s: suppress(x, w, k, 0.3, "square", s),
}


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 80), kind=st.sampled_from(KINDS[:3]), data=st.data())
def test_every_road_gives_the_picks_of_the_torch_loop(name, seed, n, kind, data):
    k, x, w = data.draw(st.integers(1, n)), features(seed, 2, n, 48, kind), weights(seed, 2, n)
    start = starts(seed, 2, n, min(k, 3)) if data.draw(st.booleans()) else None
    found = KERNELS[name](x, w, k, start)
    with roads.plain_torch():
        expected = KERNELS[name](x, w, k, start)
    # Copies tie, and relevances that are summed in another order may tip them.
    assert torch.equal(expected, found) or (kind == "copies" and "balance" in name)


@pytest.mark.parametrize("name", ["farthest", "farthest weighted", "residual", "suppress"])
@pytest.mark.parametrize("given_", [False, True])
def test_following_a_few_candidates_is_following_all(monkeypatch, name, given_):
    n, k = 1500, 150
    monkeypatch.setattr(cosine, "GRAM_LIMIT", 1000)
    x = features(7, 1, n, 40, "clusters")
    x[:, 900:1000] = x[:, 100:200]  # some copies
    w, start = weights(7, 1, n), starts(7, 1, n, 5) if given_ else None
    found = KERNELS[name](x, w, k, start)
    monkeypatch.setattr(cosine, "GRAM_LIMIT", 8192)
    with roads.plain_torch():
        expected = KERNELS[name](x, w, k, start)
    if "farthest" in name:
        assert_as_far(x[0], w[0] if "weighted" in name else None, found[0].tolist(), expected[0].tolist())
    else:
        assert torch.equal(expected, found)


def assert_as_far(x_ND, w_N, found, expected):
    """The same picks, or at the first that differs one as far, to the rounding of a float32 product."""
    if found == expected:
        return
    assert len(set(found)) == len(found) == len(expected)
    at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    unit_ND = torch.nn.functional.normalize(x_ND.double(), dim=1)
    value_N = (1 - (unit_ND @ unit_ND[found[:at]].mT).amax(1)) * (1 if w_N is None else w_N.double())
    value_N[found[:at]] = -torch.inf
    assert min(value_N[found[at]], value_N[expected[at]]) >= value_N.max() - 5e-7 * (1 if w_N is None else w_N.max())


@pytest.mark.parametrize("name", [name for name in KERNELS if "cover" in name or "balance" in name])
def test_where_no_matrix_fits_the_picks_are_the_same_and_a_line_says_what_it_costs(monkeypatch, name):
    x, w = features(9, 1, 60, 24), weights(9, 1, 60)
    whole = KERNELS[name](x, w, 20, None)
    monkeypatch.setattr(cosine, "GRAM_LIMIT", 59)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert torch.equal(KERNELS[name](x, w, 20, None), whole), "above the limit it is still built if memory is there"
        monkeypatch.setattr(cosine, "fits", lambda images, n, device: False)
        assert not said
        assert torch.equal(KERNELS[name](x, w, 20, None), whole)
    needed = name not in ("cover", "balance of two")
    assert [str(w.message).startswith("coverage of 60 tokens") for w in said] == [True] * needed


@pytest.mark.parametrize("name", [name for name in KERNELS if "cover" in name])
@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("room", [1 << 26, 2 * 37 * 48])
def test_computing_every_gain_at_every_pick_picks_the_same(monkeypatch, name, kind, room):
    """As on a device that is waited for; a few images at a time too."""
    x, w, start = features(4, 3, 37, 48, kind), weights(4, 3, 37), starts(4, 3, 37, 3)
    expected = [KERNELS[name](x, w, 30, s) for s in (None, start)]
    monkeypatch.setattr(steady, "serves", lambda like, n, r: True)
    monkeypatch.setattr(steady, "_MOST", room)
    for s, order in zip((None, start), expected, strict=True):
        found = KERNELS[name](x, w, 30, s)
        # Copies tie, and weighted sums in another order may tip them.
        assert torch.equal(found, order) or (kind == "copies" and "weighted" in name)


def test_memory_decides():
    here = torch.device("cpu")
    assert cosine.fits(1, cosine.GRAM_LIMIT, here) and not cosine.fits(1, 10**8, here)


def test_without_numba_one_line_says_so(monkeypatch):
    x = features(3, 1, 30, 8)
    expected = farthest(x, 9)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "foveate.ops.compiled.farthest", raising=False)
    roads._has_numba.cache_clear()
    try:
        with pytest.warns(UserWarning, match="numba does not serve.*pip install"):
            assert torch.equal(farthest(x, 9), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            coverage(x, 9)
    finally:
        roads._has_numba.cache_clear()
