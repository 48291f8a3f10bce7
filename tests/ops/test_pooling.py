"""Pooling weights, grids and shares."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.ops.pooling import cell_centres, pool_weights, pooled_shape, shares


@given(size=st.integers(1, 40), data=st.data())
def test_weights_average_and_every_item_counts_the_same(size, data):
    cells = data.draw(st.integers(1, size))
    weight = pool_weights(size, cells)
    torch.testing.assert_close(weight.sum(1), torch.ones(cells))
    torch.testing.assert_close(weight.sum(0), torch.full((size,), cells / size))
    centres = cell_centres(size, cells)
    assert (centres.diff() > 0).all() and (weight[torch.arange(cells), centres] > 0).all()


def test_whole_cells_are_plain_average_pooling():
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.adaptive_avg_pool1d(x, 4)
    torch.testing.assert_close(x @ pool_weights(12, 4).T, expected)


@given(rows=st.integers(1, 30), columns=st.integers(1, 30), data=st.data())
def test_the_pooled_grid_fits(rows, columns, data):
    most = data.draw(st.integers(1, rows * columns))
    r, c = pooled_shape(rows, columns, most)
    assert 1 <= r <= rows and 1 <= c <= columns and r * c <= most
    assert (most < rows * columns) or (r, c) == (rows, columns)


@pytest.mark.parametrize(
    ("rows", "columns", "most", "expected"),
    [(24, 24, 64, (8, 8)), (24, 24, 63, (7, 9)), (24, 36, 96, (8, 12)), (10, 40, 4, (1, 4)), (40, 10, 4, (4, 1))],
)
def test_the_pooled_grid_keeps_size_and_aspect(rows, columns, most, expected):
    assert pooled_shape(rows, columns, most) == expected


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=8), data=st.data())
def test_shares_fit_the_budget_and_the_blocks(sizes, data):
    k = data.draw(st.integers(1, sum(sizes)))
    out = shares(sizes, k)
    assert 0 < sum(out) <= k and all(0 <= share <= size for share, size in zip(out, sizes, strict=True))


def test_frames_get_equal_shares_and_few_tokens_are_spread():
    assert shares([100] * 8, 25) == [3] * 8
    assert shares([100] * 8, 2) == [0, 0, 1, 0, 0, 0, 1, 0]
