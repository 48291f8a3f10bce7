"""VTW's search: divergences are those of whole passes, and the layer is the first that stays below the threshold."""

import pytest
import torch
from torch.nn.functional import kl_div

from foveate.engines.hf import load
from foveate.engines.score import prepare_examples
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.methods.vtw import vtw
from foveate.search import withdrawal
from foveate.search.withdrawal import Withdrawal
from foveate.tiny.examples import examples


@pytest.fixture(scope="module")
def engine():
    return load()


@pytest.fixture(scope="module")
def data():
    return examples(range(2), "val", questions=2)


@pytest.fixture(scope="module")
def found(engine, data):
    return withdrawal(data, engine, threshold=5.0, batch=2)


def said(engine, data, plan=None):
    prompt = prepare_examples(engine, data)
    with torch.inference_mode():
        if plan is None:
            return engine.model(**prompt.inputs).logits[:, -1].log_softmax(-1)
        with attach(engine.model, plan, tail=prompt.tail):
            return engine.model(**prompt.inputs).logits[:, -1].log_softmax(-1)


@pytest.mark.parametrize("layer", [1, 6, 9])
def test_a_layer_is_compared_as_if_it_were_asked_alone(engine, data, found, layer):
    whole = kl_div(said(engine, data, vtw(layer=layer)), said(engine, data), reduction="none", log_target=True)
    assert found.divergences[layer - 1] == pytest.approx(float(whole.sum(-1).mean()), rel=1e-3, abs=1e-5)


def test_the_layer_is_the_first_that_stays_below(engine, data, found):
    assert len(found.divergences) == engine.facts.depth - 1
    assert found.divergences[0] > found.divergences[-1]
    assert found.layer == next(
        k for k in range(1, engine.facts.depth) if all(d < 5.0 for d in found.divergences[k - 1 :])
    )
    assert found.plan == vtw(layer=found.layer)
    assert withdrawal(data, engine, threshold=1e6, batch=4).layer == 1


def test_no_layer_below_the_threshold_is_said(engine, data):
    with pytest.raises(FoveateError, match="before the last layer, 9, the answer still differs"):
        withdrawal(data, engine, threshold=1e-12)


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"batch": 0}, {"threshold": float("nan")}])
def test_settings_out_of_range_are_refused(engine, data, wrong):
    with pytest.raises(FoveateError, match="threshold is"):
        withdrawal(data, engine, **wrong)


def test_examples_without_pictures_are_refused(engine):
    with pytest.raises(FoveateError, match="without a picture"):
        withdrawal([], engine)
    assert Withdrawal(3, (0.1,)).plan.cuts[0].at == 3
