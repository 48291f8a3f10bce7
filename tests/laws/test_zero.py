"""No token at all, from some layer on: the laws hold there too, and the prompt's last token stays."""

import pytest
import torch
from torch.testing import assert_close

from foveate import Attention, Cut, Plan, PlanError, attach
from foveate.methods.fastv import TextAttention
from foveate.methods.pool import Pool
from foveate.methods.uniform import Uniform
from laws.test_laws import generate, mixed
from masked import masked, places
from zoo import DEPTH, NAMES, SIZES, Row, batch, shared

OWN, PREVIOUS = TextAttention(Attention("last", "own")), TextAttention(Attention("last", "previous"))
PLANS = {
    "at once": Plan((Cut(2, PREVIOUS, 0),)),
    "from the first layer": Plan((Cut(0, OWN, 0.0),)),
    "by and by": Plan((Cut(1, OWN, 0.5), Cut(2, PREVIOUS, 0.1), Cut(3, PREVIOUS, 0.0))),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", PLANS)
def test_drop_is_mask_and_batch_is_singles(name, which):
    model, b = shared(name), mixed(name)
    real = b.inputs["attention_mask"].bool()
    plan = Plan(PLANS[which].cuts, "original")
    with torch.no_grad(), attach(model, plan) as attached:
        full, told = model(**b.inputs), generate(model, b)
        report = attached.report
        singles = [generate(model, batch(name, [row])) for row in b.rows]
    assert all(i.per_layer[-1] == 0 and i.cuts[-1].kept == () for i in report.images)
    alive = real.clone()
    for (row, _), spot in places(b.inputs).items():
        alive[row, spot] = False
    with torch.no_grad(), masked(name, report, real, places(b.inputs), DEPTH) as yardstick:
        want, want_told = yardstick(**b.inputs), generate(yardstick, b)
    assert_close(full.logits[alive], want.logits[alive], rtol=1e-4, atol=2e-5)
    for a, c in zip(told.logits, want_told.logits, strict=True):
        assert_close(a, c, rtol=1e-4, atol=2e-5)
    for r, alone in enumerate(singles):
        for a, c in zip(alone.logits, told.logits, strict=True):
            assert_close(a[0], c[r], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_a_prompt_that_ends_with_its_picture_keeps_the_last_token(name):
    model = shared(name)
    b = batch(name, [Row([3, ("image", SIZES[name][0])], 1), Row([2, ("image", SIZES[name][0]), 9], 2)])
    with torch.no_grad(), attach(model, Plan((Cut(1, OWN, 0),))) as attached:
        out = model(**b.inputs)
    kept = [i.cuts[-1].kept for i in attached.report.images]
    last_is_visual = places(b.inputs)[0, 0][-1] == b.length - 1
    assert kept[1] == () and len(kept[0]) == int(last_is_visual)
    assert out.logits[:, -1].isfinite().all() and (out.logits[:, -1] != 0).any()


def test_what_was_merged_before_goes_too():
    """A pool's mixture has no heir: with nothing left, nothing of it is seen."""
    model, b = shared("qwen3_vl"), mixed("qwen3_vl")
    first = Cut("input", Pool(), 0.5)
    with torch.no_grad(), attach(model, Plan((first, Cut(0, OWN, 0)))):
        merged = generate(model, b)
    with torch.no_grad(), attach(model, Plan((Cut(0, OWN, 0),))):
        plain = generate(model, b)
    for a, c in zip(merged.logits, plain.logits, strict=True):
        assert_close(a, c, rtol=1e-4, atol=2e-5)


def test_over_the_prompt_zero_leaves_the_template():
    model, b = shared("llava"), mixed("llava")
    with torch.no_grad(), attach(model, Plan((Cut(2, PREVIOUS, 0, over="prompt"),))) as attached:
        told = generate(model, b)
    assert all(i.per_layer[-1] == 0 for i in attached.report.images)
    assert max(attached.report.text_dropped) > 0 and told.logits[0].isfinite().all()


@pytest.mark.parametrize("at", ["input", "encoder"])
@pytest.mark.parametrize("keep", [0, 0.0])
def test_before_the_first_layer_zero_means_nothing(at, keep):
    with pytest.raises(PlanError, match="keep is 0"):
        Cut(at, Uniform(), keep)


def test_zero_survives_json_and_scaling():
    plan = Plan((Cut(0.25, PREVIOUS, 0.5), Cut(0.5, PREVIOUS, 0.0)), mean=0.3, made={"by": "a test", "n": [1, 2]})
    again = Plan.from_json(plan.to_json())
    assert again == plan and again.made == plan.made
    at8 = again.at_depth(8)
    assert [c.keep for c in at8.cuts] == [pytest.approx(0.2), 0.0]
