"""Assisted decoding: guesses stand behind the prompt, and the answer is the one without them."""

import pytest
import torch

from foveate import ModelError, attach
from foveate.methods import METHODS
from learned import options
from zoo import DEPTH, NAMES, Row, batch, build, shared

EXTRA = {"tops": {"depth": DEPTH}, "pyramiddrop": {"layers": (1, 2, 3)}, "sms": {"image": 0.5, "text": 0.5}}
GREEDY = {"max_new_tokens": 8, "do_sample": False}


def plan(method, keep=0.5):
    return METHODS[method](keep=keep, **EXTRA.get(method, options(method)))


def dialogue(name, seed):
    """A prompt that ends as its first turn ended, so that lookup finds something to guess: the words behind that."""
    size = {"llava": (24, 24), "internvl": 1}.get(name, (16, 16))
    b = batch(name, [Row([3, ("image", size), 14], seed)])
    ids = b.inputs["input_ids"]
    ids[0, -2:] = ids[0, -9:-7]
    return b


@pytest.mark.parametrize("guesses", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_guesses_have_no_say(method, guesses):
    model = shared("llava")
    for seed in range(3):
        b = dialogue("llava", seed)
        with torch.no_grad(), attach(model, plan(method)) as attached:
            want = model.generate(**b.inputs, **GREEDY)
            kept = attached.report.to_dict(indices=True)["images"]
            got = model.generate(**b.inputs, **GREEDY, prompt_lookup_num_tokens=guesses)
            assert attached.report.to_dict(indices=True)["images"] == kept
        assert torch.equal(want, got)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_families_guess(name, positions):
    from dataclasses import replace

    model, b = shared(name), dialogue(name, 1)
    with torch.no_grad(), attach(model, replace(plan("fastv"), positions=positions)):
        want = model.generate(**b.inputs, **GREEDY)
        assert torch.equal(want, model.generate(**b.inputs, **GREEDY, prompt_lookup_num_tokens=2))


def test_a_prompt_after_guesses_is_its_own():
    """What was noted for one call of generate does not reach the next forward pass."""
    model, b = shared("llava"), dialogue("llava", 0)
    with torch.no_grad(), attach(model, plan("fastv")) as attached:
        model(**b.inputs)
        want = attached.report.to_dict(indices=True)["images"]
        model.generate(**b.inputs, **GREEDY, prompt_lookup_num_tokens=2)
        model(**b.inputs)
        assert attached.report.to_dict(indices=True)["images"] == want


def test_an_assistant_with_a_plan_is_refused_by_name():
    model, b = shared("llava"), dialogue("llava", 0)
    helper = build("llava", seed=1)
    both = attach(model, plan("divprune")), attach(helper, plan("divprune"))
    with torch.no_grad(), both[0], both[1], pytest.raises(ModelError, match="assistant model has a plan attached too"):
        model.generate(**b.inputs, **GREEDY, assistant_model=helper)
    with torch.no_grad(), attach(helper, plan("divprune")), pytest.raises(ModelError, match="assistant model"):
        model.generate(**b.inputs, **GREEDY, assistant_model=helper)
    with pytest.raises(ModelError, match="assistant_early_exit"), attach(model, plan("divprune")):
        model.generate(**b.inputs, **GREEDY, assistant_early_exit=2)
    with torch.no_grad(), attach(model, plan("fastv")):
        want = model.generate(**b.inputs, **GREEDY)
        assert torch.equal(want, model.generate(**b.inputs, **GREEDY, assistant_model=helper))
