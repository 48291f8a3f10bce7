"""The probe at attach: what holds passes within rounding, what computes from lengths is refused by name."""

import pytest

from alltypes.tiny import build
from foveate import ModelError, attach
from foveate.hf.attach import Attachment
from foveate.hf.probe import probe
from foveate.methods import METHODS
from zoo import shared

PLAN = METHODS["divprune"](keep=0.5)


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5"])
def test_cutting_is_never_sending_or_hiding(name):
    """Gemma's images see themselves both ways and its windows count what is hidden; Qwen3.5 has a recurrent state."""
    model = build(name)
    assert probe(model, Attachment) < 1e-5
    assert probe(model, Attachment) is None, "once a model"


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_families_of_their_own_pass_too(name):
    assert probe(shared(name), Attachment) < 1e-5


def test_a_layer_that_counts_is_refused_by_name():
    model = build("gemma3")
    # What comes after it adds the mean over all places, and there are as many of them as ever.
    layer = model.model.language_model.layers[2]
    layer.register_forward_hook(lambda _layer, _args, out: out + out.mean(1, keepdim=True))
    with pytest.raises(ModelError, match=r"layer 2, a Gemma3DecoderLayer, is the first to differ"):
        attach(model, PLAN, probe=True)
    assert "_foveate" not in model.model.__dict__, "nothing is left attached"
    attach(model, PLAN).detach()


def test_types_without_a_family_are_tried_unless_told_not_to():
    model = build("cohere2_vision")
    layer = model.model.language_model.layers[1]
    layer.register_forward_hook(lambda _layer, _args, out: out + out.mean(1, keepdim=True))
    with pytest.raises(ModelError, match="layer 1, a Cohere2DecoderLayer"):
        attach(model, PLAN)
    attach(model, PLAN, probe=False).detach()
