"""Every method on every family, briefly: what it keeps is what a mask would keep, alone as in company."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from foveate import Plan, attach
from foveate.errors import ModelError
from foveate.methods import METHODS
from laws.test_laws import ALL, mixed, plan
from laws.test_mixes import MERGING
from masked import alive, alive_text, masked, places
from zoo import DEPTH, NAMES, Row, batch, shared

REST = [m for m in METHODS if m not in ALL]
PAIRS = [(m, n) for m in REST for n in NAMES]


def known(method, name):
    """The plan, at the input where the family resamples features behind its projector."""
    chosen = replace(plan(method), positions="original")
    cuts = tuple(replace(c, at="input") if c.at == "encoder" and name == "llava_onevision" else c for c in chosen.cuts)
    return Plan(cuts, "original", mean=chosen.mean)


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_drop_is_mask_and_batch_is_singles(method, name):
    model, b = shared(name), mixed(name)
    real = b.inputs["attention_mask"].bool()
    with torch.no_grad(), attach(model, known(method, name)) as attached:
        out = model(**b.inputs)
        report = attached.report
        assert sum(i.tokens - i.per_layer[-1] for i in report.images) > 0
        for r, row in enumerate(b.rows):
            alone = model(**batch(name, [row]).inputs).logits[0, -1]
            assert_close(out.logits[r, -1], alone, rtol=1e-4, atol=2e-5)
    if method in MERGING:
        return
    where = places(b.inputs)
    held = alive(report, real, where) & alive_text(out.past_key_values, DEPTH - 1, real, where)
    with torch.no_grad(), masked(name, report, real, where, DEPTH, out.past_key_values) as yardstick:
        want = yardstick(**b.inputs).logits
    assert_close(out.logits[held], want[held], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("method", REST)
def test_keep_everything_is_bit_identical(method):
    model, b = shared("llava"), mixed("llava")
    every = Plan(tuple(replace(c, keep=1.0) for c in plan(method).cuts))
    with torch.no_grad():
        before = model(**b.inputs).logits
        with attach(model, every):
            kept = model(**b.inputs).logits
    assert torch.equal(before, kept)


def test_merging_before_a_resampled_projection_is_refused():
    model = shared("llava_onevision")
    b = batch("llava_onevision", [Row([3, ("image", (48, 45)), 9], 5)])
    with torch.no_grad(), attach(model, METHODS["visionzip"](keep=0.4)), pytest.raises(ModelError, match="input"):
        model(**b.inputs)
