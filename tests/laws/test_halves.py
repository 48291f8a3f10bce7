"""The laws once more in half precision, under autocast, and for quantised models.

Tolerances are the stock model's own: how far its rounding takes it from its answer in float32.
"""

import copy
from contextlib import nullcontext

import pytest
import torch

from foveate import Plan, attach
from foveate.methods import METHODS, method
from masked import alive, masked, places
from zoo import DEPTH, Row, batch, build, shared

PLANS = {
    "divprune": method("divprune", keep=0.5),
    "fastervlm": method("fastervlm", keep=0.5),
    "fastv": METHODS["fastv"](keep=0.3),
    "two": Plan((*method("divprune", keep=0.6).cuts, *method("fastv", keep=0.3).cuts)),
}
WAYS = ["bfloat16", "float16", "autocast bfloat16", "autocast float16"]


def prompts(name):
    size = {"llava": (24, 24)}.get(name, (16, 32))
    return batch(name, [Row([3, ("image", size), 11], 2), Row([2, ("image", size), 1, ("image", size), 8], 3)])


def halved(model, b, way):
    """The model and its inputs in another precision, and the context in which they run."""
    dtype = getattr(torch, way.split()[-1])
    if "autocast" in way:
        return model, b.inputs, torch.autocast("cpu", dtype)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in b.inputs.items()}
    return copy.deepcopy(model).to(dtype), inputs, nullcontext()


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("plan", PLANS)
def test_drop_is_mask_and_batch_is_singles(name, way, plan):
    b = prompts(name)
    model, inputs, where = halved(shared(name), b, way)
    with torch.no_grad():
        exact = shared(name)(**b.inputs).logits
        with where:
            rounding = float((model(**inputs).logits.float() - exact).abs().max())
            with attach(model, PLANS[plan]) as attached:
                got, report = model(**inputs).logits.float(), attached.report
                lone = []
                for row in b.rows:
                    one = batch(name, [row])
                    _, single, _ = halved(torch.nn.Identity(), one, way)
                    lone.append((model(**single).logits.float()[0, -1], attached.report))
    real, spots = b.inputs["attention_mask"].bool(), places(b.inputs)
    keep = alive(report, real, spots)
    with masked(name, report, real, spots, DEPTH) as stock:
        yardstick, inputs, where = halved(stock, b, way)
        with torch.no_grad(), where:
            want = yardstick(**inputs).logits.float()
    assert 1e-6 < rounding < 1
    assert float((got - want)[keep].abs().max()) <= 3 * rounding
    for r, (alone, told) in enumerate(lone):
        kept = [[c.kept for c in i.cuts] for i in report.images if i.row == r]
        # Rounding may turn a choice between near equals; where it did not, the answer is the same.
        if [[c.kept for c in i.cuts] for i in told.images] == kept:
            assert float((alone - got[r, -1]).abs().max()) <= 3 * rounding


@pytest.mark.parametrize("way", WAYS)
def test_keep_everything_is_bit_identical(way):
    b = prompts("llava")
    model, inputs, where = halved(shared("llava"), b, way)
    with torch.no_grad(), where:
        before = model(**inputs).logits
        with attach(model, Plan(PLANS["two"].cuts).with_keep(1.0, 1.0)):
            assert torch.equal(before, model(**inputs).logits)


@pytest.mark.parametrize("plan", PLANS)
def test_quantised(plan):
    """Weights in int8 (torchao): the choice is made, and the law holds within what quantising itself changes."""
    torchao = pytest.importorskip("torchao.quantization")
    b, model = prompts("llava"), build("llava")
    plain = shared("llava")(**b.inputs).logits.detach()
    with torch.no_grad():
        torchao.quantize_(model.model.language_model, torchao.Int8WeightOnlyConfig())
        rounding = float((model(**b.inputs).logits - plain).abs().max())
        with attach(model, PLANS[plan]) as attached:
            got, report = model(**b.inputs).logits, attached.report
            told = model.generate(**b.inputs, max_new_tokens=3, do_sample=False)
    assert 0 < rounding < 1
    assert told.shape[1] == b.length + 3
    real, spots = b.inputs["attention_mask"].bool(), places(b.inputs)
    keep = alive(report, real, spots)
    with masked("llava", report, real, spots, DEPTH) as stock, torch.no_grad():
        want = stock(**b.inputs).logits
    assert float((got - want)[keep].abs().max()) <= 3 * rounding
