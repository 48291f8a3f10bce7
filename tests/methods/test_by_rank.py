"""SparseVLM's counts by rank: per image, and what the rank of the raters' attention is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate import PlanError, attach
from foveate.methods import METHODS
from foveate.methods.by_count import by_count
from foveate.methods.sparsevlm import Recycling
from foveate.selection import Selection, TokenView
from zoo import SIZES, Row, batch, shared

make = METHODS["sparsevlm"]


def view_of(ranks, n, raters, seed=0):
    """Attention of so many raters, of which so many differ; the last rows of zeros, as of a shorter question."""
    g = torch.Generator().manual_seed(seed)
    rows_BRN = torch.zeros(len(ranks), raters + 2, n)
    for rows_RN, rank in zip(rows_BRN, ranks, strict=True):
        different = torch.rand(rank, n, generator=g)
        rows_RN[:raters] = torch.eye(rank).repeat(raters // rank + 1, 1)[:raters] @ different
    hidden_BND = torch.randn(len(ranks), n, 8, generator=g)
    return TokenView(hidden_BND=hidden_BND, text_attn_BN=rows_BRN.mean(1), text_rows_BRN=rows_BRN)


@settings(max_examples=40, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 7), min_size=1, max_size=4), n=st.integers(8, 60), lam=st.floats(0, 1), data=st.data()
)
def test_each_image_keeps_what_its_rank_says(ranks, n, lam, data):
    k = data.draw(st.integers(1, n))
    view = view_of(ranks, n, 7)
    select = make(0.5, count="rank", lam=lam).cuts[0].select
    out = select(view, k)
    assert out.counts_B.tolist() == [min(k, max(1, n - int(lam * (n - rank)))) for rank in ranks]
    for i, count in enumerate(out.counts_B.tolist()):
        alone = Recycling()(view_of(ranks, n, 7), count)
        assert torch.equal(out.keep_BN[i], alone.keep_BN[i])
        if alone.mix_BKN is not None:
            assert torch.equal(out.mix_BKN[i, :count], alone.mix_BKN[i])


def test_words_that_attend_differently_make_a_rank_of_their_number():
    """So the counts follow how many words rate, whatever the image."""
    for words in (2, 5, 11):
        rows = torch.randn(3, words, 576, generator=torch.Generator().manual_seed(words)).softmax(-1)
        assert torch.linalg.matrix_rank(rows).tolist() == [words] * 3


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl"])
def test_a_batch_counts_each_prompt_by_itself(name):
    model, size = shared(name), SIZES[name][-1]
    plan = make(0.9, count="rank", layers=(1, 2, 3), lam=0.6)
    rows = [Row([3, ("image", size), 7], 1), Row([2, ("image", size), 19], 2)]

    def counts(these):
        with attach(model, plan) as a:
            model(**batch(name, these).inputs)
            return [[len(cut.kept) for cut in image.cuts] for image in a.report.images]

    both = counts(rows)
    assert both == [counts([row])[0] for row in rows]
    assert both[0] != both[1], "the longer question keeps more"
    assert all(a > b > c for a, b, c in both)


def test_wrong_settings_are_refused():
    for options, message in (({"count": "ranks"}, "count is"), ({"count": "rank", "lam": 1.2}, "lam is")):
        with pytest.raises(PlanError, match=message):
            make(0.5, **options)


def test_images_of_different_counts_are_asked_in_groups():
    view = TokenView(hidden_BND=torch.arange(4.0)[:, None, None].expand(4, 6, 1))
    asked = []

    def first(some, k):
        asked.append((some.hidden_BND[:, 0, 0].tolist(), k))
        return Selection.of(torch.arange(k).expand(some.shape[0], k), 6)

    out = by_count(view, torch.tensor([2, 5, 2, 1]), first, mixes=True)
    assert asked == [([3.0], 1), ([0.0, 2.0], 2), ([1.0], 5)] and out.counts_B.tolist() == [2, 5, 2, 1]
    assert torch.equal(out.mix_BKN[1], torch.eye(6)[:5]) and not out.mix_BKN[3, 1:].any()
