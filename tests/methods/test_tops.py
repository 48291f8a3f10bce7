"""TOPS: schedules and budgets, both stages, and what the transforms are for."""

import warnings

import pytest
import torch

from foveate.errors import PlanError
from foveate.methods import METHODS
from foveate.methods.tops_schedules import SCHEDULES
from foveate.selection import Attention, TokenView

from .test_laws import make_view
from .test_methods import keeps, mean, places

make = METHODS["tops"]


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 28, 32, 40, 80])
@pytest.mark.parametrize("keep", [1.0, 0.8, 0.6, 2 / 9, 1 / 9, 1 / 18])
def test_a_fraction_is_the_mean_over_layers_at_every_depth(keep, depth):
    plan = make(keep, depth=depth)
    assert mean(plan, depth) == pytest.approx(keep, rel=1e-9)
    assert keeps(plan) == sorted(keeps(plan), reverse=True)


def test_the_paper_s_schedules():
    assert places(make(128, depth=32)) == ["input", 12, 24]
    assert places(make(128)) == ["input", 0.375, 0.75] and make(128).at_depth(32) == make(128, depth=32)
    assert [keeps(make(t)) for t in (128, 64, 32)] == [[256, 64, 32], [128, 32, 16], [64, 16, 8]]
    assert [keeps(make(t, budget="table")) for t in (128, 64)] == [[256, 128, 32], [128, 64, 16]]
    assert mean(make(128, depth=32), 32) == 128 and mean(make(128, budget="table", depth=32), 32) == 152
    assert keeps(make(128 / 576)) == pytest.approx([256 / 576, 64 / 576, 32 / 576])
    assert places(make(0.2, schedule="llava-1.5-13b")) == ["input", 15, 30]
    qwen = make(256, schedule="qwen2.5-vl-7b", budget="table")
    assert places(qwen) == ["input", 12, 16] and keeps(qwen) == [512, 281, 77]
    assert mean(make(256, schedule="qwen2.5-vl-7b"), 28) == pytest.approx(256, abs=0.3)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("budget", ["mean", "table"])
def test_every_schedule_makes_a_plan(name, budget):
    plan = make(0.1, schedule=name, budget=budget)
    if budget == "mean":
        assert mean(plan, SCHEDULES[name].depth) == pytest.approx(0.1)
    assert places(make(0.1, schedule=name, depth=8)) == ["input", 3, 6], "the caller's depth wins"


@pytest.mark.parametrize("keep", [1, 3, 17, 100, 333])
@pytest.mark.parametrize("depth", [6, 28, 32, 40])
def test_numbers_meet_the_mean_as_near_as_whole_tokens_allow(keep, depth):
    assert mean(make(keep, depth=depth), depth) == pytest.approx(keep, abs=0.5)


def test_weights_of_stage_two_follow_the_schedule_unless_given():
    weights = lambda plan: (plan.cuts[-1].select.alpha, plan.cuts[-1].select.lam)  # noqa: E731
    assert weights(make(64 / 576, schedule="llava-1.5-7b")) == (0.5, 1.0)
    assert weights(make(128 / 576, schedule="llava-1.5-7b")) == (0.5, 0.5)
    assert weights(make(0.1, schedule="internvl3-8b", lam_inside=0.7)) == (0.3, 0.7)
    assert (make(0.1, lam=0.4).cuts[0].select.lam, make(0.1, lam=0.4).cuts[1].select.lam) == (0.4, 0.5)


def test_stages_alone():
    assert [(c.at, c.keep) for c in make(0.2, stages=1).cuts] == [("input", 0.2)]
    inside = make(0.6, stages=2, depth=32)
    assert places(inside) == [12, 24] and mean(inside, 32) == pytest.approx(0.6)
    assert mean(make(0.1, stages=2, layers=(2, 6)), 32) == pytest.approx(0.1)


def test_positions_raters_and_layer_are_parameters():
    assert make(0.2).positions is None and make(0.2, positions="contiguous").positions == "contiguous"
    assert make(0.2).cuts[1].select.attention == Attention("dynamic", "previous")
    assert make(0.2, raters="last", attention="own").cuts[1].select.attention == Attention("last", "own")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "llava-1.5-7B"}, "did you mean 'llava-1.5-7b'"),
        ({"stages": 3}, "stages is 3"),
        ({"raters": "received"}, "raters is 'received'"),
        ({"attention": "next"}, "attention is 'next'"),
        ({"budget": "paper"}, "budget is 'paper'"),
        ({"normalise": "max"}, "normalise is 'max'"),
        ({"transform": "root"}, "transform is 'root'"),
        ({"clip": 1.5}, "clip is 1.5"),
        ({"alpha": -0.5}, "alpha is -0.5"),
        ({"lam_inside": -1.0}, "lam is -1.0"),
        ({"beta": -1}, "beta is -1"),
        ({"alpha": 0, "lam": 0, "beta": 0}, "all 0"),
        ({"layers": (12, 32)}, "layers are .12, 32."),
        ({"layers": (0, 4)}, "layers hold 0"),
        ({"stages": 2}, "stays above 0.375"),
        ({"stages": 2, "keep": 20}, "give a fraction"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(PlanError, match=message):
        make(**{"keep": 0.2, **options})


def test_the_first_token_is_the_most_relevant_under_every_transform():
    view = make_view(0, 2, 6, 6)
    for kind in ("none", "rank", "log", "clip"):
        keep = make(0.2, transform=kind).cuts[0].select(view, 1).keep_BN
        assert torch.equal(keep.int().argmax(1), view.cls_attn_BN.argmax(1))


def test_a_heavy_tail_drowns_the_other_criteria_with_a_warning_and_rank_repairs_it():
    view = make_view(0, 1, 12, 12)
    heavy = view.cls_attn_BN * 1e-4
    heavy[0, ::12] *= 1e4
    view = TokenView(hidden_BND=view.hidden_BND, cls_attn_BN=heavy)
    with pytest.warns(UserWarning, match="drowns diversity") as said:
        assert make(0.2, transform="none").cuts[0].select(view, 12).keep_BN[0, ::12].all(), (
            "[CLS] top-k in all but name"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = {"transform": "none"}
        for options in ({}, plain | {"normalise": "minmax"}, plain | {"alpha": 0.0, "lam": 0.0}):
            make(0.2, **options).cuts[0].select(view, 12)
    assert str(said[0].message).count("transform=") == 1 and "normalise" not in str(said[0].message)
    assert make(0.2) == make(0.2, transform="rank") != make(0.2, transform="none")
    assert not make(0.2).cuts[0].select(view, 12).keep_BN[0, ::12].all()
