"""SMS: counts that follow each image's curve, and quotas for image and text inside the LLM."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import PlanError, SignalError
from foveate.methods import METHODS
from foveate.ops.knee import knee
from foveate.plan import Plan
from foveate.selection import Attention, TokenView

from .test_methods import places

make = METHODS["sms"]


def view_of(score_BN, texts=0):
    b, n = score_BN.shape
    text_BN = (torch.arange(n) >= n - texts).expand(b, n)
    return TokenView(cls_attn_BN=score_BN, cls_cos_BN=score_BN, text_attn_BN=score_BN, text_BN=text_BN)


def scores(seed, b, n):
    return torch.rand(b, n, generator=torch.Generator().manual_seed(seed)) ** 3 + 1e-3


class TestStageOne:
    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        n=st.integers(1, 80),
        c=st.sampled_from([0.5, 2.0, 4.0]),
        least=st.integers(1, 9),
        data=st.data(),
    )
    def test_it_keeps_the_head_capped_and_floored(self, seed, n, c, least, data):
        k = data.draw(st.integers(1, n))
        score = scores(seed, 3, n)
        kept = make(0.5, c=c, least=least).cuts[0].select(view_of(score), k).keep_BN
        counts = kept.sum(1).tolist()
        assert counts == [min(k, max(least, head)) for head in knee(score, c, 0.99).tolist()]
        for row, keep in zip(score, kept, strict=True):
            rest = row[~keep]
            assert not len(rest) or row[keep].min() >= rest.max(), "the highest ones"

    def test_a_larger_c_keeps_more_and_what_was_kept(self):
        score = scores(1, 4, 200)
        few, many = (make(0.9, c=c).cuts[0].select(view_of(score), 180).keep_BN for c in (1.0, 6.0))
        assert (few.sum(1) < many.sum(1)).all()
        assert not (few & ~many).any()

    def test_the_cosine_and_its_sign(self):
        score = scores(2, 2, 50)
        near, far = (make(0.9, score="cosine", sign=s).cuts[0].select for s in (1, -1))
        assert near.reads == {"cls_cos_BN"}
        same = make(0.9).cuts[0].select(view_of(score), 40).keep_BN
        assert torch.equal(near(view_of(score), 40).keep_BN, same)
        assert torch.equal(far(view_of(-score), 40).keep_BN, same)


class TestStageTwo:
    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        n=st.integers(2, 60),
        image=st.sampled_from([0.1, 0.5, 1.0]),
        text=st.sampled_from([0.0, 0.5, 1.0]),
        data=st.data(),
    )
    def test_each_kind_has_its_quota_and_image_gives_way_to_the_cap(self, seed, n, image, text, data):
        texts = data.draw(st.integers(0, n - 1))
        k = data.draw(st.integers(1, n))
        score = scores(seed, 2, n)
        view = view_of(score, texts)
        kept = make(0.5, image=image, text=text).cuts[1].select(view, k).keep_BN
        of_text = min(int(text * texts + 0.5), k - 1)
        of_image = min(max(1, int(image * (n - texts) + 0.5)), k - of_text)
        for row, keep, is_text in zip(score, kept, view.text_BN, strict=True):
            assert (int(keep[is_text].sum()), int(keep[~is_text].sum())) == (of_text, of_image)
            for kind in (is_text, ~is_text):
                stays, goes = row[kind & keep], row[kind & ~keep]
                assert not len(stays) or not len(goes) or stays.min() >= goes.max()

    def test_text_alone_keeps_at_least_one(self):
        view = TokenView(text_attn_BN=scores(0, 1, 4), text_BN=torch.ones(1, 4, dtype=torch.bool))
        assert make(0.5, text=0.0).cuts[1].select(view, 3).counts_B.tolist() == [1]

    def test_a_knee_of_its_own_makes_the_shares_caps(self):
        score = scores(3, 1, 100)
        view = view_of(score, 20)
        kept = make(0.9, c_inside=2.0, image=0.9, text=0.9).cuts[1].select(view, 90).keep_BN[0]
        assert int(kept[:80].sum()) == int(knee(score[:, :80], 2.0, 0.99)) < 72
        assert int(kept[80:].sum()) == min(18, int(knee(score[:, 80:], 2.0, 0.99)))

    @pytest.mark.parametrize("sign", [1, -1])
    def test_similarity_is_the_mean_cosine_to_all_before(self, sign):
        hidden = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
        text_BN = (torch.arange(12) >= 9).expand(2, 12)
        select = make(0.5, correlation="similarity", sign_inside=sign, image=0.4, text=1.0).cuts[1].select
        kept = select(TokenView(hidden_BND=hidden, text_BN=text_BN), 10).keep_BN
        for x, keep in zip(hidden, kept, strict=True):
            score = [0.0]
            for t in range(1, 9):
                score.append(sign * float(torch.cosine_similarity(x[t : t + 1], x[:t]).mean()))
            best = sorted(range(9), key=lambda t: -score[t])[:4]
            assert keep[:9].nonzero().flatten().tolist() == sorted(best)
            assert keep[9:].all()


def test_plans():
    assert places(make(0.3)) == ["input", 0.375, 0.75]
    assert [c.over for c in make(0.3).cuts] == ["visual", "prompt", "prompt"]
    assert places(make(0.3, stages=1)) == ["input"] and places(make(0.3, stages=2, layers=(2, 5))) == [2, 5]
    assert make(0.3, raters="last", attention="own").cuts[1].select.attention == Attention("last", "own")
    for options in ({"correlation": "similarity"}, {"score": "cosine", "sign": -1}, {"c_inside": 3.0}):
        plan = make(0.3, **options)
        assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c": 0}, "c is 0"),
        ({"c_inside": -1.0}, "c is -1"),
        ({"quantile": 1.1}, "quantile is 1.1"),
        ({"least": 0}, "least is 0"),
        ({"score": "dot"}, "score is 'dot'"),
        ({"score": "cosine", "sign": 0}, "sign is 0"),
        ({"correlation": "similarity", "sign_inside": 2}, "sign is 2"),
        ({"correlation": "both"}, "correlation is 'both'"),
        ({"stages": 3}, "stages is 3"),
        ({"raters": "received"}, "raters is 'received'"),
        ({"attention": "next"}, "attention is 'next'"),
        ({"image": 0.0}, "image is 0"),
        ({"text": -0.1}, "text is -0.1"),
        ({"layers": ()}, "layers is empty"),
        ({"layers": (0, 2)}, "layers hold 0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(PlanError, match=message):
        make(**{"keep": 0.2, **options})


def test_nan_is_refused():
    score = scores(0, 1, 9)
    score[0, 3] = float("nan")
    with pytest.raises(SignalError, match="NaN"):
        make(0.5).cuts[0].select(view_of(score), 4)
