"""Plans under autocast, half precision and another default dtype: what is asked in float32 is answered in float32."""

import pytest
import torch
from torch.testing import assert_close

from foveate import attach
from foveate.methods import METHODS
from learned import options
from zoo import DEPTH, NAMES, Row, batch, build, shared

HALVES = [torch.bfloat16, torch.float16]
EXTRA = {
    "tops": {"depth": DEPTH},
    "pyramiddrop": {"depth": DEPTH, "layers": (1, 2, 3)},
    "sms": {"image": 0.5, "text": 0.5},
}


def plan(method):
    return METHODS[method](keep=0.5, **EXTRA.get(method, options(method)))


def prompt(name):
    return batch(name, [Row([3, ("image", SIZE[name]), 11], 2)])


SIZE = {
    n: (24, 24) if n == "llava" else 1 if n == "internvl" else (16, 16) if "llava" in n else (32, 32) for n in NAMES
}


# Every method on one family, every family by what reads attention, merges, or taps the tower.
EVERY = [(m, "llava", torch.bfloat16) for m in METHODS]
SOME = [(m, n, torch.bfloat16) for m in ("fastv", "pool", "fastervlm") for n in NAMES if n != "llava"]


@pytest.mark.parametrize(
    ("method", "name", "dtype"), [*EVERY, *SOME, ("fastv", "llava", torch.float16), ("pool", "llava", torch.float16)]
)
def test_autocast(name, method, dtype):
    """Every plan drops what it should, and what the model says is finite."""
    model, b = shared(name), prompt(name)
    with torch.no_grad(), torch.autocast("cpu", dtype), attach(model, plan(method)) as attached:
        out = model(**b.inputs)
        assert attached.report.budget < attached.report.tokens
        told = model.generate(**b.inputs, max_new_tokens=2, do_sample=False)
    assert told.shape[1] == b.length + 2
    assert bool(out.logits.isfinite().all())


@pytest.mark.parametrize("dtype", HALVES)
def test_merging_under_another_default_dtype(dtype):
    b = prompt("llava")
    with torch.no_grad(), attach(shared("llava"), plan("pool")):
        want = shared("llava")(**b.inputs).logits
        model = build("llava").to(dtype)
        torch.set_default_dtype(dtype)
        try:
            with attach(model, plan("pool")):
                got = model(**dict(b.inputs, pixel_values=b.inputs["pixel_values"].to(dtype))).logits
        finally:
            torch.set_default_dtype(torch.float32)
    assert got.dtype == dtype
    assert_close(got.float(), want, rtol=0.1, atol=0.5)


def test_attention_is_read_in_float32_under_autocast():
    """With projections that autocast leaves alone, what raters say is the same to the last bit, inside and outside."""
    from foveate.hf.taps import text_attention

    layer, g = build("llava").model.language_model.layers[1], torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 12, 32, generator=g)
    cos, sin = torch.ones(1, 12, 8), torch.zeros(1, 12, 8)
    raters, real = torch.zeros(1, 12, dtype=torch.bool), torch.ones(1, 12, dtype=torch.bool)
    raters[:, 9:] = True
    for name in ("q_proj", "k_proj"):
        module = getattr(layer.self_attn, name)
        module.forward = lambda x, w=module.weight: (x[..., None, :] * w).sum(-1)
    with torch.no_grad():
        want = text_attention(layer, hidden, cos, sin, raters, real, None)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(text_attention(layer, hidden, cos, sin, raters, real, None), want)
