"""Counts over images of mixed sizes, in one batch: what an attachment keeps, and what it says of it."""

import pytest
import torch
from torch.testing import assert_close

from foveate import Cut, Plan, PlanError, attach
from foveate.methods import method
from foveate.methods.uniform import Uniform
from zoo import Row, batch, shared


def prompts():
    """A thumbnail of 4 tokens beside pictures of 16 and 8, and one of 16 alone."""
    rows = [
        Row([3, ("image", (16, 16)), 2, ("image", (32, 32)), 2, ("image", (16, 32)), 9], 1),
        Row([3, ("image", (32, 32)), 9], 2),
    ]
    return batch("qwen2_vl", rows)


def kept(plan, b):
    with torch.no_grad(), attach(shared("qwen2_vl"), plan) as attached:
        logits = shared("qwen2_vl")(**b.inputs).logits
    images = attached.report.images
    assert [i.tokens for i in images] == [4, 16, 8, 16]
    return [[c.count for c in i.cuts] for i in images], attached.report, logits


def test_an_image_with_fewer_keeps_all_and_the_report_says_so():
    counts, report, _ = kept(method("divprune", keep=6), prompts())
    assert counts == [[4], [6], [6], [6]]
    assert [[c["all"] for c in i["cuts"]] for i in report.to_dict()["images"]] == [[True], [False], [False], [False]]
    assert "4 -> all 4 at input" in repr(report)
    assert "16 -> 6 at input" in repr(report)


@pytest.mark.parametrize("at", ["input", 2])
def test_a_total_per_prompt_is_shared_by_size(at):
    plan = Plan((Cut(at, Uniform(), 14, per="prompt"),))
    counts, _, _ = kept(plan, prompts())
    assert counts == [[2], [8], [4], [14]]
    counts, _, _ = kept(Plan((Cut(at, Uniform(), 8, per="prompt", least=2),)), prompts())
    assert counts == [[2], [4], [2], [8]]


def test_shares_shrink_from_cut_to_cut():
    cuts = Cut("input", Uniform(), 14, per="prompt"), Cut(1, Uniform(), 8, per="prompt"), Cut(3, Uniform(), 0)
    counts, _, _ = kept(Plan(cuts), prompts())
    assert [c[:2] for c in counts] == [[2, 1], [8, 5], [4, 2], [14, 8]]
    with pytest.raises(PlanError, match="keep grows"):
        kept(Plan((Cut("input", Uniform(), 4, per="prompt"), Cut(1, Uniform(), 3))), prompts())


def test_refusals():
    with pytest.raises(PlanError, match="there are only 4 tokens"):
        kept(method("divprune", keep=6).with_counts(exact=True), prompts())
    with pytest.raises(PlanError, match="2 tokens for a prompt of 3 images"):
        kept(Plan((Cut("input", Uniform(), 2, per="prompt"),)), prompts())


def test_a_batch_is_its_prompts():
    plan, b = Plan((Cut("input", Uniform(), 14, per="prompt", least=3),)), prompts()
    counts, _, together = kept(plan, b)
    for r, row in enumerate(b.rows):
        with torch.no_grad(), attach(shared("qwen2_vl"), plan) as attached:
            alone = shared("qwen2_vl")(**batch("qwen2_vl", [row]).inputs).logits
        mine = [[c.count for c in i.cuts] for i in attached.report.images]
        assert mine == (counts[:3] if r == 0 else counts[3:])
        assert_close(alone[0, -1], together[r, -1], rtol=1e-4, atol=2e-5)
