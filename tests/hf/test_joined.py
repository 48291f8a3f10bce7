"""Features of several tower layers, joined: a cut before the projector chooses by all that the projector is given."""

import pytest
import torch
from torch.testing import assert_close

from foveate import Cut, ModelError, Plan, Selection, SignalError, attach
from foveate.hf.families.base import feature_layer, feature_layers
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector
from zoo import Row, batch, build

WIDTH = 24
ROWS = {
    "llava": [Row([3, ("image", (24, 24)), 9], 1), Row([2, ("image", (24, 24)), 3, ("image", (24, 24)), 7], 2)],
    "llava_next": [Row([3, ("image", (32, 16)), 9], 1)],
    "llava_onevision": [Row([3, ("image", (32, 16)), 9], 1)],
}
LISTS = [[0, 1, 3], [3, 0], [-1, 1]]


class Spy:
    """Keeps the tokens whose features are largest, and what it was shown."""

    adaptive, reads = False, frozenset({"hidden_BND", "encoder_BNC"})

    def __init__(self):
        self.seen = []

    def __call__(self, view, k):
        self.seen.append(view)
        return Selection.top(view.hidden_BND.norm(dim=-1), k)


def given(model, inputs):
    """What the projector's first layer is given: [tokens, C]; and the answer."""
    rows = []
    handle = model.model.multi_modal_projector.linear_1.register_forward_pre_hook(
        lambda _, args: rows.append(args[0].flatten(0, -2))
    )
    with torch.no_grad():
        logits = model(**inputs).logits
    handle.remove()
    return torch.cat(rows), logits


@pytest.mark.parametrize("layers", LISTS, ids=str)
def test_a_selector_sees_what_the_projector_is_given_and_the_rest_never_reaches_it(layers):
    model, asked, spy = build("llava", vision_feature_layer=layers), batch("llava", ROWS["llava"]), Spy()
    whole, want = given(model, asked.inputs)
    with attach(model, Plan((Cut("encoder", spy, 12),))) as attached:
        rows, _ = given(model, asked.inputs)
        report = attached.report
    shown = torch.cat([view.hidden_BND.flatten(0, 1) for view in spy.seen])
    assert shown.shape == (3 * 36, len(layers) * WIDTH)
    assert_close(shown, whole)
    deepest = [i % 4 for i in layers].index(3)
    features = torch.cat([view.encoder_BNC.flatten(0, 1) for view in spy.seen])
    assert_close(features, whole[:, deepest * WIDTH : (deepest + 1) * WIDTH])
    kept = torch.tensor([36 * i + place for i, image in enumerate(report.images) for place in image.cuts[0].kept])
    assert kept.tolist() == Selection.top(whole.norm(dim=-1).view(3, 36), 12).keep_BN.flatten().nonzero()[:, 0].tolist()
    assert_close(rows, whole[kept])
    with attach(model, Plan((Cut("encoder", spy, 1.0),))):
        assert torch.equal(given(model, asked.inputs)[1], want)
    assert torch.equal(given(model, asked.inputs)[1], want)


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_tiles_and_newlines_too(name):
    """Newlines have no features: an encoder cut shows zeros there."""
    model, asked, spy = build(name, vision_feature_layer=[1, 0, 3]), batch(name, ROWS[name]), Spy()
    whole, _ = given(model, asked.inputs)
    with attach(model, Plan((Cut("encoder", spy, 20),))):
        rows, _ = given(model, asked.inputs)
    (view,) = spy.seen
    shown = view.hidden_BND[0]
    there = shown.any(-1)
    nearest = torch.cdist(shown[there], whole).argmin(1)
    assert len(nearest) >= 0.7 * len(shown) and len(nearest.unique()) == len(nearest)
    assert_close(shown[there], whole[nearest])
    assert len(rows) <= 20 < len(whole)


@torch.no_grad()
def test_the_published_selector_of_that_width_chooses_and_a_narrower_one_is_refused():
    model, asked = build("llava", vision_feature_layer=[0, 1, 3]), batch("llava", ROWS["llava"])
    for width in (3 * WIDTH, WIDTH):
        select = StepwiseSelector(StepwiseConfig(width, 32, 0.3, heads=2))
        with attach(model, Plan((Cut("encoder", select, 12),))) as attached:
            if width == WIDTH:
                with pytest.raises(SignalError, match="width 24, but this model's are 72"):
                    model(**asked.inputs)
                continue
            model(**asked.inputs)
            assert all(1 <= len(image.cuts[0].kept) <= 12 for image in attached.report.images)


@pytest.mark.parametrize(
    ("index", "layers", "deepest"),
    [(-2, [10], 10), (-1, [11], 11), (12, [11], 11), (1, [0], 0), ([0, 8, 12], [-1, 7, 11], 11),
     ([12, 0, -5], [11, -1, 7], 11), ([-13, 3], [-1, 2], 2), (-12, [0], 0)],
    ids=str,
)  # fmt: skip
def test_a_state_is_what_a_layer_puts_out_and_the_first_what_the_first_is_given(index, layers, deepest):
    assert feature_layers(index, 12) == layers and feature_layer(index, 12) == deepest


@pytest.mark.parametrize("index", [0, 13, -13, -14, [], [0], [3, 13], [-14, 2]], ids=str)
def test_what_is_no_state_of_a_layer_is_refused(index):
    with pytest.raises(ModelError, match="no output of the tower's 12 layers"):
        feature_layer(index, 12)
