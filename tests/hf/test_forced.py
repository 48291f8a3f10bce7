"""An answer forced behind its prompt says what generating it would, and features encoded once serve every plan."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from alltypes import prompts, tiny
from foveate import Cut, Plan, attach
from foveate.hf.families import family
from foveate.methods.fastervlm import ClsAttention
from foveate.methods.fastv import fastv
from foveate.methods.psigmoid import psigmoid
from foveate.search.cases import force
from foveate.search.resume import Arrival, beginning, can_begin, passing, prepared
from laws.test_laws import generate, mixed
from zoo import DEPTH, NAMES, PAD, build, shared

PLANS = {
    "psigmoid": psigmoid(0.5, depth=DEPTH, attention="own"),
    "received": fastv(0.3, layer=1, scoring="paper"),
    "cls": Plan((Cut("input", ClsAttention(), 0.5), *psigmoid(0.35, depth=DEPTH).cuts)),
}


def forced(b, told, kind=0):
    """The batch with what was generated behind its prompts."""
    mask = b.inputs["attention_mask"].bool()
    said = told.sequences[:, b.length :].tolist()
    return force(SimpleNamespace(inputs=b.inputs, mask_BL=mask), said, PAD, kind)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", PLANS)
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_forcing_is_generating(name, which, positions):
    model, b = shared(name), mixed(name)
    with torch.no_grad(), attach(model, replace(PLANS[which], positions=positions)) as attached:
        told, before = generate(model, b), attached.report
        ready = forced(b, told)
        attached.answers_B = ready.lengths_B
        n = ready.want_BT.shape[1]
        got = model(**ready.inputs, use_cache=False, logits_to_keep=n + 1).logits[:, -n - 1 : -1]
        report = attached.report
    assert [[c.kept for c in i.cuts] for i in report.images] == [[c.kept for c in i.cuts] for i in before.images]
    for step, want in enumerate(told.logits):
        assert_close(got[:, step], want, rtol=1e-4, atol=2e-5)


def test_a_forced_answer_does_not_see_its_end():
    """PaliGemma's prompt sees itself both ways, and its processor says which tokens are its prompt's."""
    model = tiny.build("paligemma")
    inputs = prompts.batch("paligemma", model, prompts.mixed("paligemma", model))
    inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    b = SimpleNamespace(inputs=inputs, length=inputs["input_ids"].shape[1])
    with torch.no_grad(), attach(model, PLANS["received"]) as attached:
        told = generate(model, b)
        ready = forced(b, told, family(model).answer_type)
        attached.answers_B = ready.lengths_B
        n = ready.want_BT.shape[1]
        got = model(**ready.inputs, use_cache=False, logits_to_keep=n + 1).logits[:, -n - 1 : -1]
    for step, want in enumerate(told.logits):
        assert_close(got[:, step], want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_features_serve_other_plans(name):
    model, b = shared(name), mixed(name)
    features: dict = {}
    with torch.no_grad():
        with attach(model, PLANS["psigmoid"]) as attached:
            attached.features = features
            generate(model, b)
        assert features
        with attach(model, PLANS["cls"]) as attached:
            want = generate(model, b)
        with attach(model, PLANS["cls"]) as attached:
            # What this plan reads of the tower is not there yet: encoded anew, and put by.
            attached.features = features
            got = generate(model, b)
        calls = []
        handle = model.model.language_model.register_forward_pre_hook(lambda *_: None)
        tower = getattr(model.model, "vision_tower", None) or model.model.visual
        spy = tower.register_forward_pre_hook(lambda *_: calls.append(1))
        with attach(model, PLANS["cls"]) as attached:
            attached.features = features
            again = generate(model, b)
        handle.remove(), spy.remove()
    assert not calls, "the tower did not run again"
    for a, c, d in zip(want.logits, got.logits, again.logits, strict=True):
        assert torch.equal(a, c) and torch.equal(a, d)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", ["own", "previous"])
def test_starting_in_the_middle_changes_nothing(name, attention):
    model, b = shared(name), mixed(name)
    layers = model.model.language_model.layers
    first = psigmoid(0.6, depth=DEPTH, attention=attention)
    second = first.with_keep(*[c.keep if c.at < 2 else c.keep / 2 for c in first.cuts])
    assert can_begin(first, 2) and beginning(first, 2) == beginning(second, 2)
    end = Arrival(2, beginning(first, 2), first.positions)

    def run(plan, start, end):
        with attach(model, prepared(plan, start, end)) as attached, passing(layers, start, end), torch.no_grad():
            out = model(**b.inputs, use_cache=False)
            return out.logits, [i.per_layer for i in attached.report.images]

    whole = run(second, None, None)
    run(first, None, end)
    ran = []
    spies = [layer.self_attn.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(layers)]
    resumed = run(second, end, None)
    for spy in spies:
        spy.remove()
    assert set(ran) == {2, 3}
    assert whole[1] == resumed[1]
    # Places that were dropped before the layer are 0 either way.
    assert_close(resumed[0], whole[0], rtol=1e-5, atol=1e-6)
    assert all("forward" not in vars(layer) for layer in layers)


def test_a_layer_that_was_passed_over_gets_back_the_forward_that_others_gave_it():
    layers = build("llava").model.language_model.layers
    theirs = layers[0].forward = partial(type(layers[0]).forward, layers[0])
    with passing(layers, Arrival(2, (), None), None):
        assert layers[0].forward is not theirs
    assert layers[0].forward is theirs and "forward" not in layers[1].__dict__
