"""NaN and infinity are refused by all methods alike, naming image and place; large half-precision features are not."""

import pytest
import torch

from foveate import SignalError, attach
from foveate.methods import METHODS
from foveate.selection import TokenView
from learned import options
from zoo import DEPTH, IMAGE, Row, batch, build, shared

EXTRA = {
    "tops": {"depth": DEPTH},
    "pyramiddrop": {"depth": DEPTH, "layers": (1, 2, 3)},
    "sms": {"image": 0.5, "text": 0.5},
}


def plan(method, keep=0.5):
    return METHODS[method](keep=keep, **EXTRA.get(method, options(method)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_all_methods_refuse_alike(method, bad):
    """One feature of the second prompt's image goes wrong."""
    model = shared("llava")
    b = batch("llava", [Row([3, ("image", (24, 24)), 11], 2), Row([2, ("image", (24, 24)), 15], 3)])
    place = int((b.inputs["input_ids"][1] == IMAGE).nonzero()[7])

    def spoil(_module, args, kwargs):
        kwargs["inputs_embeds"][1, place, 3] = bad
        return args, kwargs

    layers = plan(method)
    if all(cut.keep == 0 for cut in layers.cuts):
        pytest.skip("nobody is asked")
    if all(cut.at == "encoder" for cut in layers.cuts):
        pytest.skip("chosen before the features")
    handle = model.model.language_model.register_forward_pre_hook(spoil, with_kwargs=True)
    try:
        with torch.no_grad(), attach(model, layers), pytest.raises(SignalError, match="prompt 1"):
            model(**b.inputs)
    finally:
        handle.remove()


@pytest.mark.parametrize("beams", [1, 2])
def test_features_that_generate_encodes_ahead_are_refused_as_what_they_are(beams):
    model = build("llava")
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias[0] = float("nan")
    b = batch("llava", [Row([3, ("image", (24, 24)), 11], 2)])
    with attach(model, plan("divprune")), pytest.raises(SignalError, match="NaN or infinity in hidden_BND"):
        model.generate(**b.inputs, max_new_tokens=2, num_beams=beams)


@pytest.mark.parametrize("method", METHODS)
def test_features_near_the_end_of_float16(method):
    """What overflows in a product of float16 is chosen as in float32."""
    n, g = 36, torch.Generator().manual_seed(0)
    x = torch.randn(2, n, 32, generator=g)
    x[:, :, 3] += 4
    large = (x / x.abs().max() * 65000).half()
    shares = x[..., 2].softmax(-1)

    def view(dtype, select):
        of = large.to(dtype)
        every = {
            **dict.fromkeys(("hidden_BND", "encoder_BNC", "keys_BNC", "input_BND"), of),
            **dict.fromkeys(("text_BTD", "text_hidden_BTD"), of[:, :5]),
            **dict.fromkeys(("cls_attn_BN", "first_attn_BN", "text_attn_BN", "prior_attn_BN"), shares),
            "cls_cos_BN": x[..., 1].tanh(),
            "key_norm_BN": x[..., 0].abs(),
            "text_norm_BT": x[:, :5, 0].abs(),
            "text_BN": torch.zeros(2, n, dtype=torch.bool),
            "grid": (1, 6, 6),
        }
        return TokenView(**{name: every[name] for name in select.reads})

    select = plan(method).cuts[0].select
    with torch.no_grad():
        a, b = (select(view(dtype, select), 12) for dtype in (torch.float16, torch.float32))
    assert torch.equal(a.keep_BN, b.keep_BN)
