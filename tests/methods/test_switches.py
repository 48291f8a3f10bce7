"""What each switch does to any selector."""

import pytest
import torch

from foveate import Plan, PlanError
from foveate.methods import METHODS
from foveate.methods.sized import Sized
from foveate.methods.switches import Counted, Merged, Restored, counted, merged, restored

from .test_laws import checked, make_view, mapped, same

PLAIN = [
    "random",
    "uniform",
    "fastervlm",
    "divprune",
    "gots",
    "cdpruner",
    "scope",
    "fastv",
    "dart",
    "priortr",
    "vispruner",
]
WRAPS = {"merged": merged, "restored": restored, "counted": counted}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("name", PLAIN)
def test_the_laws_of_selectors_hold(wrap, name):
    plan = WRAPS[wrap](METHODS[name](keep=0.5))
    select = plan.cuts[0].select
    assert Plan.from_json(plan.to_json()) == plan
    assert hasattr(select, "attention") == ("text_attn_BN" in select.reads)
    for k in (1, 2, 7, 29, 30):
        view = make_view(k, 3, 5, 6)
        out = checked(select, view, k)
        assert same(out, select(view.only(select.reads), k))
        for i in range(3):
            single = select(mapped(view, lambda _, x, i=i: x[i : i + 1]), k)
            assert torch.equal(single.keep_BN[0], out.keep_BN[i])
            if out.mix_BKN is not None:
                slots = int(single.counts_B)
                assert torch.equal(single.mix_BKN[0, :slots], out.mix_BKN[i, :slots])
        if out.mix_BKN is not None:
            torch.testing.assert_close(out.mix_BKN.sum(-1), torch.ones(out.mix_BKN.shape[:2]))


def test_merged_keeps_the_same_tokens_and_loses_nobody():
    view, plain = make_view(0, 2, 6, 6), METHODS["divprune"](keep=0.5).cuts[0].select
    out = Merged(plain)(view, 9)
    assert torch.equal(out.keep_BN, plain(view, 9).keep_BN)
    assert (out.mix_BKN > 0).sum(1).eq(1).all(), "every token lives in one slot"
    sizes = (out.mix_BKN > 0).sum(-1, keepdim=True)
    mean = (sizes * (out.mix_BKN @ view.hidden_BND)).sum(1)
    torch.testing.assert_close(mean, view.hidden_BND.sum(1), rtol=1e-4, atol=1e-4)
    far = Merged(plain, least=0.999)(view, 9)
    assert torch.equal((far.mix_BKN > 0).sum(-1), torch.ones(2, 9, dtype=torch.long)), "nobody is so like another"


def test_counted_keeps_what_beats_the_mean_and_no_more_than_it_may():
    view = make_view(0, 3, 6, 6)
    attn = view.cls_attn_BN
    inside = METHODS["fastervlm"](keep=0.5).cuts[0].select
    beat = (attn >= 1.2 * attn.mean(1, keepdim=True)).sum(1)
    assert Counted(inside, 1.2)(view, 36).counts_B.tolist() == beat.tolist()
    assert Counted(inside, 1.2)(view, 3).counts_B.tolist() == [min(3, int(x)) for x in beat]
    assert Counted(inside, 1e6, least=5)(view, 36).counts_B.tolist() == [5] * 3
    assert Counted(inside, 0.0)(view, 20).counts_B.tolist() == [20] * 3
    few = [Counted(inside, t)(view, 36).counts_B.sum().item() for t in (0.5, 1.0, 1.5)]
    assert few == sorted(few, reverse=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: restored(METHODS["fastervlm"](0.5), gamma=0.0), "gamma is 0.0"),
        (lambda: restored(METHODS["pool"](0.5)), "fixed count"),
        (lambda: counted(METHODS["fastervlm"](0.5), field="text_attn_BN"), "nobody says whose"),
        (lambda: counted(METHODS["fastervlm"](0.5), times=-1.0), "times is -1.0"),
        (lambda: merged(METHODS["sms"](0.5, text=0.5)), "whole prompt"),
        (lambda: merged(METHODS["tome"](0.5)).cuts[0].select(make_view(0, 1, 4, 4), 5), "merges tokens itself"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(PlanError, match=says):
        make()


def test_restored_lets_the_selector_choose_its_share():
    view, plain = make_view(1, 2, 6, 6), METHODS["divprune"](keep=0.5).cuts[0].select
    out = Restored(plain, 0.5)(view, 10)
    alone = plain(view, 5).keep_BN
    assert (out.keep_BN & alone).sum(1).tolist() == [5, 5] and out.counts_B.tolist() == [10, 10]
    for i in range(2):
        slots = out.keep_BN[i].long().cumsum(0) - 1
        own = slots[alone[i]]
        assert torch.equal((out.mix_BKN[i, own] > 0).sum(-1), torch.ones(5, dtype=torch.long)), "nobody joins its picks"


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["restored", "visionzip", "sparsevlm", "trim"])
def test_of_few_tokens_no_group_can_be_made_and_each_stands_for_itself(name, keep):
    """A batch has large pictures and small ones: what merges in one may have nothing to merge in the other."""
    plan = restored(METHODS["divprune"](0.5), gamma=0.8) if name == "restored" else METHODS[name](0.5)
    out = Sized(plan.cuts[0].select)(make_view(0, 2, 5, 6), keep)
    assert (out.keep_BN.sum(1) == keep).all()
    torch.testing.assert_close(out.mix_BKN.sum(-1), torch.ones(2, keep))
    assert (out.mix_BKN.gather(2, out.keep_BN.nonzero()[:, 1].view(2, keep, 1)) > 0).all()


def test_what_was_asked_not_to_merge_is_refused_beside_sizes():
    for plan in (restored(METHODS["divprune"](0.5), gamma=1.0), METHODS["visionzip"](0.5, contextual=0)):
        with pytest.raises(PlanError, match="merges no tokens"):
            Sized(plan.cuts[0].select)(make_view(0, 2, 5, 6), 6)
