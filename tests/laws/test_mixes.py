"""Hypothesis draws the batch: how many prompts, their texts and pictures, the padding side, the method, the keep."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from foveate import attach
from foveate.methods import METHODS
from laws.test_laws import plan
from masked import alive, alive_text, masked, places
from zoo import DEPTH, NAMES, SIZES, Row, batch, shared

MERGING = {"pool", "visionzip", "prumerge", "tome", "trim", "sparsevlm"}
KEEP_ONLY = [m for m in METHODS if m not in MERGING]


@st.composite
def rows(draw, name):
    """One to four prompts with zero to two pictures each, never touching."""
    out = []
    for _ in range(draw(st.integers(1, 4))):
        parts = [draw(st.integers(1, 6))]
        for _ in range(draw(st.integers(0, 2))):
            parts += [("image", draw(st.sampled_from(SIZES[name]))), draw(st.integers(1, 4))]
        out.append(Row([*parts, draw(st.integers(6, 14))], draw(st.integers(0, 50))))
    return out


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_mix(name, data):
    """batch = singles and drop = mask, at every place that survives, whatever stands beside it."""
    lines = data.draw(rows(name))
    method = data.draw(st.sampled_from(KEEP_ONLY))
    keep = data.draw(st.sampled_from([0.1, 0.3, 0.5, 0.8]))
    left = data.draw(st.booleans())
    chosen = replace(plan(method, keep), positions="original")
    model, b = shared(name), batch(name, lines, left=left)
    real = b.inputs["attention_mask"].bool()
    with torch.no_grad(), attach(model, chosen) as attached:
        out = model(**b.inputs)
        got, report = out.logits, attached.report
        if report is None:
            assert all(len(r.parts) < 3 for r in lines)
            return
        where = places(b.inputs)
        held = alive(report, real, where) & alive_text(out.past_key_values, DEPTH - 1, real, where)
        singles = [batch(name, [row], left=left) for row in lines]
        for r, one in enumerate(singles):
            alone = model(**one.inputs).logits[0]
            here = real[r].nonzero().flatten()
            stays = held[r, here]
            assert_close(got[r, here][stays], alone[stays], rtol=1e-4, atol=2e-5)
    with torch.no_grad(), masked(name, report, real, where, DEPTH, out.past_key_values) as yardstick:
        want = yardstick(**b.inputs).logits
    assert_close(got[held], want[held], rtol=1e-4, atol=2e-5)
