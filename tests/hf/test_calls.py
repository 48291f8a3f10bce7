"""Calls that would be answered wrongly in silence: packed rows, right padding before a next token."""

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


def packed(name):
    """Two samples in one row, each with positions of its own, as a packing collator puts them."""
    a, b = (batch(name, [row(name, s)]) for s in (1, 2))
    inputs = {}
    for key in a.inputs:
        dim = 1 if key in ("input_ids", "attention_mask", "mm_token_type_ids") else 0
        inputs[key] = torch.cat((a.inputs[key], b.inputs[key]), dim)
    places = torch.arange(a.length)
    inputs["position_ids"] = torch.cat((places, places))[None]
    if name in QWEN:
        inputs["position_ids"] = inputs["position_ids"].expand(4, 1, -1)
    return inputs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan", [INPUT, LAYER])
@pytest.mark.parametrize("mask", [True, False])
def test_packed_rows_are_refused_before_anything_runs(name, plan, mask):
    model, inputs = shared(name), packed(name)
    if not mask:
        del inputs["attention_mask"]
    ran = []
    tower = getattr(model.model, "vision_tower", None) or model.model.visual
    handle = tower.register_forward_hook(lambda *_: ran.append(1))
    try:
        with torch.no_grad(), attach(model, plan), pytest.raises(ModelError, match="a row for each"):
            model(**inputs)
    finally:
        handle.remove()
    assert not ran


@pytest.mark.parametrize("argument", ["cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"])
def test_flash_attentions_row_bounds_are_refused(argument):
    model, b = shared("llava"), batch("llava", [row("llava", 1)])
    value = torch.tensor([0, 20, b.length], dtype=torch.int32) if "cu" in argument else 20
    with torch.no_grad(), attach(model, INPUT), pytest.raises(ModelError, match=argument):
        model(**b.inputs, **{argument: value})


@pytest.mark.parametrize("name", NAMES)
def test_padded_positions_are_no_packed_rows(name):
    """`generate` gives padding places a position above the first token's."""
    model = shared(name)
    b = batch(name, [row(name, 1), row(name, 2, 12)])
    with torch.no_grad(), attach(model, INPUT):
        want = model(**b.inputs).logits
        if name not in QWEN:
            mask = b.inputs["attention_mask"]
            ids = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
            assert_close(model(**b.inputs, position_ids=ids).logits[mask.bool()], want[mask.bool()])
        assert model.generate(**b.inputs, max_new_tokens=2, do_sample=False).shape[1] == b.length + 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan", [INPUT, LAYER])
def test_right_padding_before_a_next_token_is_refused(name, plan):
    """The last place of a short row is padding: what stands there predicts nothing."""
    model = shared(name)
    b = batch(name, [row(name, 1), row(name, 2, 12)], left=False)
    with torch.no_grad(), attach(model, plan):
        with pytest.raises(ModelError, match="padding_side"):
            model.generate(**b.inputs, max_new_tokens=2, do_sample=False)
        with pytest.raises(ModelError, match="padding_side"):
            model(**b.inputs, logits_to_keep=1)
        # The whole length is there to be indexed, as in training.
        assert model(**b.inputs).logits.shape[1] == b.length


@pytest.mark.parametrize(("name", "sizes"), [("qwen2_vl", "image_grid_thw"), ("llava_next", "image_sizes")])
def test_pixels_without_their_sizes_are_refused_by_the_argument(name, sizes):
    model = shared(name)
    inputs = dict(batch(name, [row(name, 1)]).inputs)
    del inputs[sizes]
    with attach(model, INPUT):
        for call in (model, lambda **given: model.generate(**given, max_new_tokens=2)):
            with torch.no_grad(), pytest.raises(ModelError, match=f"pixels without {sizes}"):
                call(**inputs)
