"""Prompts given as embeddings with image features in them: the same choice and the same answer as from pixels."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from foveate import ModelError, PlanError, SignalError, attach
from foveate.hf.families import FAMILIES
from foveate.methods import METHODS, method
from foveate.selection import Block
from zoo import IMAGE, NAMES, QWEN, Row, batch, shared

SIZE = dict.fromkeys(NAMES, (16, 32)) | {"llava": (24, 24), "internvl": 1}
PLANS = [method("divprune", keep=0.5), METHODS["fastv"](keep=0.3), method("pool", keep=0.5)]
# Its tower speaks once more between decoder layers, which an embedding cannot hold.
PLAIN = [n for n in NAMES if n != "qwen3_vl"]


def prompts(name):
    return batch(name, [Row([3, ("image", SIZE[name]), 11], 2), Row([2, ("image", SIZE[name]), 15], 3)])


def embedded(name, b):
    """What the stock model gives its language model, and the arguments that go with it."""
    model, seen = shared(name), {}

    def spy(_module, _args, kwargs):
        seen.update(kwargs)

    handle = model.model.language_model.register_forward_pre_hook(spy, with_kwargs=True)
    with torch.no_grad():
        model(**b.inputs)
    handle.remove()
    rest = {"attention_mask": b.inputs["attention_mask"]}
    if name in QWEN:
        rest["position_ids"] = seen["position_ids"]
    return {"inputs_embeds": seen["inputs_embeds"], **rest}, b.inputs["input_ids"] == IMAGE


def grids(name, b):
    args = {k: v for k, v in b.inputs.items() if k not in ("input_ids", "attention_mask", "mm_token_type_ids")}
    return [u.grid for u in FAMILIES[name].units(shared(name).model, "image", args)]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("plan", PLANS)
def test_embeddings_are_pixels(name, plan):
    model, b = shared(name), prompts(name)
    inputs, visual = embedded(name, b)
    with torch.no_grad(), attach(model, plan) as attached:
        want = model(**b.inputs).logits
        kept = attached.report.to_dict(indices=True)["images"]
        with attached.embedded(visual, grids(name, b)):
            got = model(**inputs).logits
        assert attached.report.to_dict(indices=True)["images"] == kept
        assert_close(got, want, rtol=1e-4, atol=2e-5)
        with pytest.raises(ModelError, match="say where"):
            model(**inputs)


@pytest.mark.parametrize("ask", [{"do_sample": False}, {"num_beams": 3, "num_return_sequences": 2, "do_sample": False}])
def test_generating_from_embeddings(ask):
    model, b = shared("llava"), prompts("llava")
    inputs, visual = embedded("llava", b)
    with torch.no_grad(), attach(model, PLANS[1]) as attached:
        want = model.generate(**b.inputs, max_new_tokens=4, **ask)
        with attached.embedded(visual):
            got = model.generate(**inputs, max_new_tokens=4, **ask)
    assert torch.equal(want[:, b.length :], got[:, -4:])


def test_without_grids_a_stretch_is_an_image():
    model, b = shared("llava"), prompts("llava")
    inputs, visual = embedded("llava", b)
    with torch.no_grad(), attach(model, PLANS[0]) as attached:
        with attached.embedded(visual):
            model(**inputs)
        assert [i.tokens for i in attached.report.images] == [36, 36]
        with attached.embedded(visual, [(1, 3, 6), (1, 3, 6), (Block(0, 6, 6),)]):
            model(**inputs)
        assert [(i.row, i.image, i.tokens) for i in attached.report.images] == [(0, 0, 18), (0, 1, 18), (1, 0, 36)]


def test_what_does_not_fit_is_refused():
    model, b = shared("llava"), prompts("llava")
    inputs, visual = embedded("llava", b)
    with torch.no_grad(), attach(model, PLANS[0]) as attached:
        for mask, grid, say in [
            (visual.long(), None, "bool mask"),
            (visual & False, None, "false everywhere"),
            (visual, [(1, 6, 6)], "no grid is left"),
            (visual, [(1, 6, 7), (1, 6, 6)], "of 42 tokens"),
            (visual, [(1, 6, 6)] * 3, "1 grids more"),
            (visual, ["x"], "no grid"),
            (visual, (1, 6, 6), "one for each image"),
            (visual, 5, "a grid for each image"),
            (visual, [(0, 6, 6), (1, 6, 6), (1, 6, 6)], "at least 1 each"),
            (visual, [(1, -6, -6), (1, 6, 6)], "at least 1 each"),
        ]:
            with pytest.raises(ModelError, match=say), attached.embedded(mask, grid):
                pass
        with attached.embedded(visual[:, 1:]), pytest.raises(ModelError, match="but the mask of visual tokens"):
            model(**inputs)
    attached = attach(model, method("fastervlm", keep=0.5))
    with attached, pytest.raises(SignalError, match="cls_attn_BN"), attached.embedded(visual):
        pass
    attached = attach(model, replace(PLANS[0], cuts=(replace(PLANS[0].cuts[0], at="encoder"),)))
    with attached, pytest.raises(PlanError, match="encoder"), attached.embedded(visual):
        pass
