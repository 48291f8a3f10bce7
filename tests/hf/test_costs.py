"""What attaching adds, in operations that would be launched and in waits for the device. Counted, never timed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from counting import Counts
from foveate import attach
from foveate.hf import follow, hooks, wrappers
from foveate.hf.wrappers import renew_compiled
from foveate.methods import METHODS, method
from zoo import DEPTH, NAMES, Row, batch, config, shared

SIZE = dict.fromkeys(NAMES, (32, 32)) | {"llava": (24, 24), "internvl": 1}
INPUT = ["uniform", "fastervlm", "divprune", "pool"]
INSIDE = ["fastv", "pyramiddrop", "psigmoid"]
EXTRA = {"pyramiddrop": {"layers": (1, 2, 3)}}


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch):
    """Where something was, hooks stay on the layers: compiled code looks for no others. Other tests' code may be."""
    renew_compiled()
    for module in (follow, hooks, wrappers):
        monkeypatch.setattr(module, "compiled", lambda: False)


def prompts(name, rows):
    return batch(name, [Row([3, ("image", SIZE[name]), 9 + 6 * r], 5 + r) for r in range(rows)])


def decoded(model, b):
    """Counts of one decoded token, the second after the prompt."""
    mask, ids = b.inputs["attention_mask"], torch.full((len(b.rows), 1), 5)
    with torch.no_grad():
        cache = model(**b.inputs, use_cache=True, logits_to_keep=1).past_key_values
        for _ in range(2):
            mask = torch.cat((mask, torch.ones_like(mask[:, :1])), 1)
            with Counts() as counts:
                model(input_ids=ids, attention_mask=mask, past_key_values=cache, logits_to_keep=1)
    return counts


def python_calls(model, b):
    """How often Python functions are entered for one decoded token, the third after the prompt."""
    mask, ids, entered = b.inputs["attention_mask"], torch.full((len(b.rows), 1), 5), 0

    def note(_frame, event, _argument):
        nonlocal entered
        entered += event == "call"

    with torch.no_grad():
        cache = model(**b.inputs, use_cache=True, logits_to_keep=1).past_key_values
        for token in range(3):
            mask, before = torch.cat((mask, torch.ones_like(mask[:, :1])), 1), sys.getprofile()
            sys.setprofile(note if token == 2 else before)
            try:
                model(input_ids=ids, attention_mask=mask, past_key_values=cache, logits_to_keep=1)
            finally:
                sys.setprofile(before)
    return entered


def hooked(model):
    """How many hooks decoder layers carry. Stock code that was once asked for attention leaves its own behind."""
    return sum(len(x._forward_pre_hooks) + len(x._forward_hooks) for x in model.model.language_model.layers)


@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision", "internvl"])
@pytest.mark.parametrize("plan", [*INPUT, *INSIDE])
def test_a_decoded_token_costs_nothing(name, plan):
    """No launch, no wait, no hook on any layer: one prompt, cuts at the input and inside."""
    model, b = shared(name), prompts(name, 1)
    stock, own = decoded(model, b), hooked(model)
    with attach(model, METHODS[plan](keep=0.5, **EXTRA.get(plan, {}))) as attached:
        counts = decoded(model, b)
        assert attached.report.budget < attached.report.tokens
        assert hooked(model) == own
    assert counts.launches <= stock.launches
    assert counts.syncs <= stock.syncs


@pytest.fixture(scope="module")
def deep():
    """LLaVA of 32 layers, and what a decoded token takes without a plan."""
    made = config("llava")
    made.text_config.num_hidden_layers = 32
    model = AutoModelForImageTextToText.from_config(made).eval()
    return model, python_calls(model, prompts("llava", 1))


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("plan", [*INPUT, *INSIDE])
def test_a_decoded_token_enters_few_functions_however_deep_the_model(deep, plan, keep):
    """Some 3,500 are stock code's. Nothing of what is added goes by layers, nor by how many of them are cut."""
    model, stock = deep
    extra = {"layers": (8, 16, 24)} if plan == "pyramiddrop" else {}
    with attach(model, METHODS[plan](keep=keep, **extra)):
        assert python_calls(model, prompts("llava", 1)) - stock <= 64


@pytest.mark.parametrize("plan", INPUT)
def test_a_padded_batch_squeezes_one_mask(plan):
    """Rows of different length: one launch a token, which cuts the padding mask for all layers."""
    model, b = shared("llava"), prompts("llava", 3)
    stock, own = decoded(model, b), hooked(model)
    with attach(model, method(plan, keep=0.5)):
        counts = decoded(model, b)
        assert hooked(model) == own
    assert counts.launches <= stock.launches + 1
    assert counts.syncs <= stock.syncs


def test_hooks_come_back_for_the_next_prompt():
    model, b = shared("llava"), prompts("llava", 1)
    own = hooked(model)
    with torch.no_grad(), attach(model, METHODS["fastv"](keep=0.5)) as attached:
        want = model(**b.inputs).logits
        kept = attached.report.to_dict(indices=True)["images"]
        decoded(model, b)
        assert hooked(model) == own
        assert torch.equal(model(**b.inputs).logits, want)
        assert hooked(model) >= own + DEPTH
        assert attached.report.to_dict(indices=True)["images"] == kept
    assert hooked(model) == own


@pytest.mark.timeout(900)
def test_what_a_prefill_launches_and_waits_for():
    """The tests in `elsewhere.py`, in a process of their own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    tests = [str(Path(__file__).with_name("elsewhere.py")), "--timeout", "800"]
    quiet = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run([sys.executable, "-m", "pytest", *quiet, *tests], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
