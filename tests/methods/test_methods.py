"""What is particular to each method: its plan, its parameters, its refusals."""

import pytest
import torch

from foveate.errors import PlanError, SignalError
from foveate.methods import METHODS, method
from foveate.plan import Plan
from foveate.selection import Attention, Block, TokenView

from .test_laws import make_view


def places(plan: Plan):
    return [cut.at for cut in plan.cuts]


def keeps(plan: Plan):
    return [cut.keep for cut in plan.cuts]


def mean(plan: Plan, depth: int) -> float:
    """Mean over the layers of what they hold, written out layer by layer."""
    held = []
    for layer in range(depth):
        done = [c.keep for c in plan.cuts if c.at == "input" or c.at <= layer]
        held.append(done[-1] if done else 1.0)
    return sum(held) / depth


def test_a_method_by_name():
    assert method("fastv", keep=0.3, layer=3) == METHODS["fastv"](0.3, layer=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("divprun", {"keep": 0.5}, "did you mean 'divprune'"),
        ("divprune", {"keep": 0.5, "seed": 1}, "no option of divprune 'seed'; known: distance, keep"),
        ("fastv", {"keep": 0.5, "layers": 1}, "did you mean 'layer'"),
        ("fastv", {}, "needs keep"),
        ("fastv", {"keep": 0.5, "layer": 0}, "layer is 0"),
        ("fastv", {"keep": 0.5, "scoring": "both"}, "scoring is 'both'"),
    ],
)
def test_wrong_names_and_options_are_answered(name, options, message):
    with pytest.raises(PlanError, match=message):
        method(name, **options)


def test_random_depends_on_seed_and_count_alone():
    view = make_view(0, 3, 6, 6)
    pick = lambda seed, v=view: METHODS["random"](0.5, seed=seed).cuts[0].select(v, 9).keep_BN  # noqa: E731
    assert torch.equal(pick(0), pick(0, make_view(99, 3, 9, 4)))
    assert not torch.equal(pick(0), pick(1))
    assert len({tuple(row) for row in pick(0).tolist()}) == 1


def test_uniform_steps_are_even_and_centred():
    select = METHODS["uniform"](0.5).cuts[0].select
    keep = select(TokenView(hidden_BND=torch.zeros(1, 12, 2)), 4).keep_BN
    assert keep[0].nonzero()[:, 0].tolist() == [1, 4, 7, 10]
    keep = select(TokenView(hidden_BND=torch.zeros(1, 577, 2)), 100).keep_BN
    assert set(keep[0].nonzero()[:, 0].diff().tolist()) == {5, 6}


class TestPool:
    select = METHODS["pool"](0.25).cuts[0].select

    def test_it_is_average_pooling(self):
        hidden = make_view(0, 2, 8, 12).hidden_BND
        out = self.select(TokenView(hidden_BND=hidden, grid=(1, 8, 12)), 24)
        picture = hidden.view(2, 8, 12, -1).permute(0, 3, 1, 2)
        expected = torch.nn.functional.avg_pool2d(picture, 2).flatten(2).mT
        torch.testing.assert_close(out.mix_BKN @ hidden, expected)
        rows = out.keep_BN[0].nonzero()[:, 0] // 12
        assert sorted(set(rows.tolist())) == [1, 3, 5, 7]

    def test_blocks_share_and_newlines_go(self):
        tiles = Block(16, 8, 8, newline=True)
        view = TokenView(hidden_BND=torch.randn(1, 16 + 72, 4), grid=(Block(0, 4, 4), tiles))
        out = self.select(view, 20)
        kept = out.keep_BN[0].nonzero()[:, 0]
        assert (kept < 16).sum() == 4 and (kept >= 16).sum() == 16
        newlines = torch.arange(16 + 8, 88, 9)
        assert not out.keep_BN[0, newlines].any() and not out.mix_BKN[0][:, newlines].any()
        torch.testing.assert_close(out.mix_BKN.sum(-1), torch.ones(1, 20))

    def test_frames_get_the_same(self):
        view = TokenView(hidden_BND=torch.randn(1, 4 * 36, 4), grid=(4, 6, 6))
        assert self.select(view, 38).keep_BN.view(4, 36).sum(1).tolist() == [9] * 4
        assert self.select(view, 2).keep_BN.view(4, 36).sum(1).tolist() == [0, 1, 0, 1]

    def test_after_an_earlier_cut_there_is_no_grid(self):
        with pytest.raises(SignalError, match="grid"):
            self.select(TokenView(hidden_BND=torch.randn(1, 10, 4)), 5)


class TestFastV:
    def test_the_two_scorings(self):
        assert METHODS["fastv"](0.5).cuts[0].select.attention == Attention("last", "previous")
        assert METHODS["fastv"](0.5, scoring="paper").cuts[0].select.attention == Attention("received", "previous")
        assert places(METHODS["fastv"](0.5, layer=3)) == [3]


class TestPyramidDrop:
    def test_the_papers_ratio(self):
        plan = METHODS["pyramiddrop"](ratio=0.5, depth=32)
        assert places(plan) == [8, 16, 24] and keeps(plan) == [0.5, 0.25, 0.125]
        assert mean(plan, 32) == pytest.approx(0.46875)
        assert keeps(METHODS["pyramiddrop"](keep=0.46875)) == pytest.approx(keeps(plan))
        assert METHODS["pyramiddrop"](ratio=0.5).at_depth(32) == plan
        assert plan.cuts[0].select.attention == Attention("last", "own")

    @pytest.mark.parametrize("depth", [2, 3, 6, 28, 32, 40, 80])
    @pytest.mark.parametrize("keep", [0.9, 0.6, 0.51])
    def test_keep_is_the_mean_over_layers(self, keep, depth):
        assert mean(METHODS["pyramiddrop"](keep, depth=depth), depth) == pytest.approx(keep)

    @pytest.mark.parametrize("keep", [2 / 9, 1 / 9, 1 / 18])
    def test_small_budgets_move_the_stages_forward(self, keep):
        plan = METHODS["pyramiddrop"](keep).at_depth(32)
        assert mean(plan, 32) == pytest.approx(keep) and plan.cuts[0].at < 8

    def test_a_number_is_what_the_last_stage_keeps(self):
        assert keeps(METHODS["pyramiddrop"](64)) == [256, 128, 64]
        assert keeps(METHODS["pyramiddrop"](64, ratio=0.8)) == [100, 80, 64]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "needs keep"),
            ({"keep": 0.5, "ratio": 0.5}, "not both"),
            ({"ratio": 0.0}, "ratio is 0.0"),
            ({"keep": 0.2, "layers": (8, 16, 24)}, "stays above 0.25"),
            ({"keep": 0.02}, "stays above 0.03125"),
            ({"keep": 0.5, "layers": (8, 40)}, "layers are .8, 40."),
            ({"keep": 0.5, "layers": (8, 4)}, "must rise"),
            ({"ratio": 0.5, "depth": 1}, "at least 2"),
            ({"keep": 0.5, "depth": 1}, "stays above 1"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options, message):
        with pytest.raises(PlanError, match=message):
            METHODS["pyramiddrop"](**options)
