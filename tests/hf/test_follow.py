"""Further turns and decoded tokens: from a cache that was cut, attached and detached, with hooks and without."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from foveate import ModelError, attach
from foveate.methods import METHODS, method
from zoo import NAMES, QWEN, Row, batch, shared

INPUT, LAYER = method("divprune", keep=0.5), METHODS["fastv"](keep=0.3)
SIZE = dict.fromkeys(NAMES, (16, 32)) | {"llava": (24, 24), "internvl": 1}


def row(name, seed, words=7):
    return Row([3, ("image", SIZE[name]), words], seed)


# -- a cache that outlives its attachment


def chat(model, b, plan, words):
    """A pruned first turn, and the arguments of a second."""
    with torch.no_grad(), attach(model, plan):
        first = model(**b.inputs, use_cache=True)
    more = torch.randint(3, 100, (len(b.rows), words), generator=torch.Generator().manual_seed(9))
    mask = torch.cat((b.inputs["attention_mask"], torch.ones_like(more)), 1)
    return {"input_ids": more, "attention_mask": mask, "past_key_values": first.past_key_values}


# Stock Qwen needs to be told the positions of a turn by hand.
@pytest.mark.parametrize("name", [n for n in NAMES if n not in QWEN])
@pytest.mark.parametrize("words", [1, 4])
def test_a_detached_model_does_not_go_on_from_layers_of_different_length(name, words):
    model, b = shared(name), batch(name, [row(name, 1)])
    turn = chat(model, b, LAYER, words)
    with torch.no_grad(), pytest.raises(ModelError, match="attach the plan again"):
        model(**turn)
    with torch.no_grad(), attach(model, LAYER):
        assert bool(model(**turn).logits.isfinite().all())


@pytest.mark.parametrize("rows", [1, 2])
def test_a_detached_model_goes_on_where_it_is_right(rows):
    """Every layer lost the same tokens and no row is padded: nothing has to be told to anyone."""
    model = shared("llava")
    b = batch("llava", [row("llava", s) for s in range(rows)])
    turn = chat(model, b, INPUT, 4)
    with torch.no_grad():
        got = model(**turn).logits
    turn = chat(model, b, INPUT, 4)
    with torch.no_grad(), attach(model, INPUT):
        want = model(**turn).logits
    assert_close(got, want)


@pytest.mark.parametrize("case", ["padding", "contiguous"])
def test_a_detached_model_does_not_go_on_where_it_would_be_wrong(case):
    model = shared("llava")
    b = batch("llava", [row("llava", 1), row("llava", 2, 12)] if case == "padding" else [row("llava", 1)])
    plan = INPUT if case == "padding" else replace(INPUT, positions="contiguous")
    with torch.no_grad(), pytest.raises(ModelError, match="attach the plan again"):
        model(**chat(model, b, plan, 4))
