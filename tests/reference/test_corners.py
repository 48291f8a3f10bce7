"""The stored corner cases: several images a call, tiny ones, ties, what a release leaves open or does otherwise."""

import pytest
import torch

from foveate.errors import PlanError
from foveate.methods.anchorprune import Anchored
from foveate.methods.clse import evolution
from foveate.methods.eadp import Dispersed, pointed
from foveate.methods.gots import Spanning
from foveate.methods.priortr import AgainstPrior
from foveate.methods.smoothing import smoothed
from foveate.methods.switches import Restored
from foveate.ops.coverage import cover, coverage
from foveate.ops.prior import against_prior
from foveate.ops.scale import minmax
from foveate.ops.wording import word_cosines
from foveate.selection import Block, TokenView

from .cases import Case, cosine, kept
from .test_restore import Given


def test_mmtok_leaves_out_padding_where_the_family_has_any():
    """Excluded tokens are no candidates, but still ask to be covered. No family gives a selector padding tokens."""
    case = Case("mmtok", "q1")
    free = torch.ones(144, dtype=torch.bool)
    free[case["excluded"][0]] = False
    words_BTN = (word_cosines(case["vision"], case["text"]) / case.value("tv_temp")).softmax(-1)
    image_BNN = (word_cosines(case["clip"], case["clip"]) / case.value("vv_temp")).softmax(-1)
    rows = torch.cat((words_BTN / words_BTN.shape[1], image_BNN * (case.value("alpha") / 144)), 1)
    picked = free.nonzero()[:, 0][cover(rows[:, :, free], case.k)[0]]
    assert picked.sort().values.tolist() == case["keep"][0].tolist()


def importance(case, hidden, text, whole, grid):
    view = TokenView(
        hidden_BND=hidden, text_BTD=text, relevance_BN=cosine(hidden, whole[:, None])[:, 0], grid=(Block(0, *grid),)
    )
    return view, Dispersed(case.value("alpha", 0.5), 0.2, case.value("beta", 1.0), "a")


@pytest.mark.parametrize("k", [1, 3, 4])
def test_eadp_on_a_grid_of_four(k):
    case = Case("eadp", "q3")
    view, select = importance(case, case["hidden"], case["text"], case["text_global"], case["grid"][0].tolist())
    torch.testing.assert_close(select.importance(view), case["importance"], rtol=0, atol=5e-5)
    assert kept(select(view, k)) == case[f"k{k}_keep"][0].tolist()
    with pytest.raises(PlanError, match="k is 9"):  # the release returns all four
        select(view, 9)


@pytest.mark.parametrize("image", [0, 1])
def test_eadp_takes_two_images_of_different_grids_one_by_one(image):
    case = Case("eadp", "q4")
    grids = case["grid"][0].tolist()
    start = image * grids[0][0] * grids[0][1]
    hidden = case["hidden"][:, start : start + grids[image][0] * grids[image][1]]
    text, whole = case["text"][0][image : image + 1], case["text_global"][0][image : image + 1]
    view, select = importance(case, hidden, text, whole, grids[image])
    order = coverage(hidden, case.k, weight_BN=select.importance(view), floor=-1.0)[0]
    assert order.tolist() == case["order"][0][image].tolist()
    assert kept(select(view, case.k)) == case["keep"][0][image].tolist()


@pytest.mark.parametrize("name", ["q5", "q6", "q7"])
def test_eadp_in_the_image_text_space(name):
    """The release's LLaVA path: chunks of text averaged, and the tiles of one image on one scale.

    It shares an image's count by importance and loses what rounding leaves: 77 of 80 stay in q6. Here an image's tokens
    are one set and all 80 stay; within a tile, given its share, the tokens are the same.
    """
    case = Case("eadp", name)
    embed, joint = case["embed"][0], bool(case.arrays["tiles_of_one_image"])
    scores = [
        case.value("alpha") * -cosine(embed, whole.expand(len(embed), 1, -1))[:, 0]
        + (1 - case.value("alpha")) * pointed(-cosine(embed, words.expand(len(embed), -1, -1)), 0.2)
        for words, whole in zip(case["text"][0], case["text_global"][0], strict=True)
    ]
    score_BN = torch.stack(scores).mean(0)
    scaled_BN = minmax(score_BN.reshape(1, -1) if joint else score_BN, 1e-6, 1e-6).view_as(score_BN)
    view = TokenView(hidden_BND=case["hidden"][0], grid=(Block(0, 24, 24),))
    weight_BN = smoothed(scaled_BN, view).clamp(min=0) ** case.value("beta")
    share = weight_BN.sum(1) / weight_BN.sum()
    quota = (share * case.k * len(embed)).int().clamp(min=1).tolist() if joint else [case.k] * len(embed)
    assert quota == case["quota"][0].tolist()
    for tile, k in enumerate(quota):
        one = slice(tile, tile + 1)
        order = coverage(case["hidden"][0][one], k, weight_BN=weight_BN[one], floor=-1.0)[0]
        assert order.sort().values.tolist() == case["mask"][0][tile].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("n", "k", "least"), [(1, 1, 1), (2, 1, 1), (3, 2, 1), (3, 2, 5)])
def test_anchorprune_of_a_few_tokens(n, k, least):
    """k of 5 and of 0 among 3, which the release takes for all and none, are refused like everywhere."""
    case = Case("anchorprune", "q6")
    view = TokenView(
        hidden_BND=case["hidden"][:, :n], relevance_BN=-case["relevance"][:, :n], cls_attn_BN=case["importance"][:, :n]
    )
    select = Anchored(least, by="hidden", text_tower="a")
    assert kept(select(view, k)) == case[f"n{n}_k{k}_m{least}_keep"][0].tolist()
    with pytest.raises(PlanError, match="k is 5"):
        select(view, 5)


def test_anchorprune_takes_each_image_of_a_batch_alone():
    case = Case("anchorprune", "q7")
    view = TokenView(
        hidden_BND=case["hidden"][0], relevance_BN=-case["relevance"][0], cls_attn_BN=case["importance"][0]
    )
    out = Anchored(case.number("k_min"), by="hidden", text_tower="a")(view, case.k)
    assert [kept(out, i) for i in (0, 1)] == case["keep"][0].tolist()


def test_priortr_marks_what_the_release_keeps_by_a_threshold():
    """The release can keep whatever scores above 0 instead of K: the same scores, the same tokens above it."""
    case = Case("priortr", "q1")
    rows = case["rows"].mean(1)
    score = against_prior(rows.mean(1), rows[:, 0], 1e-10)
    torch.testing.assert_close(score, case["score"].float(), rtol=1e-4, atol=1e-6)
    assert (score[0] > case.value("threshold")).nonzero()[:, 0].tolist() == case["keep"][0].tolist()


@pytest.mark.parametrize("k", [1, 2])
def test_priortr_of_two_tokens(k):
    case = Case("priortr", "q3")
    rows = case["rows"].mean(1)
    view = TokenView(text_attn_BN=rows.mean(1), prior_attn_BN=rows[:, 0])
    assert kept(AgainstPrior()(view, k)) == case[f"k{k}_keep"][0].tolist()


def test_priortr_says_nothing_where_nothing_follows_the_separator():
    """All scores are 0: the first tokens stay, and nobody fails."""
    case = Case("priortr", "q4")
    prior = case["rows"].mean(1)[:, 0]
    assert not case["score"].any() and not against_prior(prior, prior, 1e-10).any()
    assert kept(AgainstPrior()(TokenView(text_attn_BN=prior, prior_attn_BN=prior), 9)) == list(range(9))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (3, 2), (3, 3)])
def test_gots_of_a_few_tokens(n, k):
    case = Case("gots", "q4")
    out = Spanning("hidden")(TokenView(hidden_BND=case["hidden"][:, :n]), k)
    assert kept(out) == case[f"n{n}_k{k}_keep"][0].tolist()


def test_clse_on_a_grid_of_four():
    case = Case("clse", "q4")
    attn = case["attn"].mean(1)
    score = attn * evolution(case["hidden"], case["hidden_in"], (Block(0, *case["grid"][0].tolist()),))
    torch.testing.assert_close(score, case["score"].float(), rtol=0, atol=1e-6)


def test_restore_puts_a_group_where_its_median_member_is():
    """The first and the last member, the paper's ablations, are worse by its own figures and not offered."""
    case = Case("restore", "q3")
    base = tuple(case["base_keep"][0].tolist())
    out = Restored(Given(base), len(base) / case.k, as_released=True)(TokenView(hidden_BND=case["hidden"]), case.k)
    assert kept(out) == case["position_median"][0].tolist()
    rows = (out.mix_BKN @ case["hidden"])[0]
    assert (rows - case["rows_median"][0]).abs().max() <= 1e-5 * case["rows_median"].abs().max()
