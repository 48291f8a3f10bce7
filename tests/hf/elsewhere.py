"""What attaching adds to a prefill of a model that is elsewhere: launches, and waits. Run by `test_costs.py`.

A made-up device is there for the rest of a process, and forked children of that process compute no gradients. So these
tests have one of their own, and no name that pytest collects.
"""

from functools import cache

import pytest
import torch
from test_costs import EXTRA, prompts

from far import FAR, Elsewhere, Far, send
from foveate import SignalError, attach
from foveate.cut import Cut
from foveate.methods import method
from foveate.methods.uniform import Uniform
from foveate.plan import Plan
from foveate.selection import Selection
from zoo import build, shared

LAUNCHES = {
    "uniform": 24, "fastervlm": 28, "pool": 26, "fastv": 71, "pyramiddrop": 209, "psigmoid": 209, "sms": 192,
    "visionzip": 97, "tome": 235, "sparsevlm": 140,
}  # fmt: skip
"""What plans may add to a prefill of one prompt of LLaVA's, choosing included. Of methods that are one kernel
on a GPU, and torch's loops here, none."""
OWN = 7
"""Of these, what `uniform` itself launches."""


@cache
def sent(name):
    return send(build(name))


def prefill(model, b):
    """Counts of one prefill, all that is given to it being elsewhere."""
    inputs = {k: Far(v) if isinstance(v, torch.Tensor) else v for k, v in b.inputs.items()}
    with torch.no_grad(), Elsewhere() as counts:
        counts.logits = model(**inputs, use_cache=True, logits_to_keep=1).logits.near
    return counts


def added(name, plan, rows=1):
    """What a plan adds to a prefill: launches, and what the host waits for."""
    b = prompts(name, rows)
    stock = prefill(sent(name), b)
    with attach(sent(name), plan):
        counts = prefill(sent(name), b)
    with attach(shared(name), plan), torch.no_grad():
        here = shared(name)(**b.inputs, use_cache=True, logits_to_keep=1).logits
    torch.testing.assert_close(counts.logits, here, atol=1e-4, rtol=1e-3)
    return counts.launches - stock.launches, dict(counts.waits - stock.waits)


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "qwen2_vl"])
def test_an_input_cut_adds_twenty_launches_and_one_wait(name):
    """Its choice apart. The wait is for the prompt's ids."""
    launches, waits = added(name, method("uniform", keep=0.5))
    assert launches - OWN <= 20
    assert waits == {"to host": 1}


def test_a_cut_at_the_encoder_waits_for_nothing_else():
    assert added("llava", Plan((Cut("encoder", Uniform(), 0.5),)))[1] == {"to host": 1}


def test_merging_between_the_towers_layers_waits_for_nothing_else():
    launches, waits = added("llava", method("tome", keep=0.5, at="tower"))
    assert waits == {"to host": 1}
    assert launches <= 110


@pytest.mark.parametrize("plan", LAUNCHES)
def test_a_prefill_waits_once_for_ids_and_once_a_cut_for_adaptive_choices(plan):
    made = method(plan, keep=0.5, **EXTRA.get(plan, {}))
    launches, waits = added("llava", made)
    assert waits.pop("to host") <= 1 + sum(cut.select.adaptive or cut.over == "prompt" for cut in made.cuts)
    assert launches <= LAUNCHES[plan]
    assert not waits


def test_counts_of_one_image_each_are_waited_for_once():
    made = method("sparsevlm", keep=0.9, count="rank")
    assert added("llava", made)[1] == {"to host": 1 + 2 * len(made.at_depth(4).cuts)}


@pytest.mark.parametrize("plan", ["scope", "mmtok", "eadp"])
def test_coverage_that_no_kernel_serves_waits_no_more_often(plan):
    assert added("llava", method(plan, keep=0.5))[1] == {"to host": 1}


def test_ragged_prompts_wait_no_more_often():
    launches, waits = added("llava", method("uniform", keep=0.5), rows=3)
    assert waits == {"to host": 1}
    assert launches <= 47


class TooMany(Uniform):
    def __call__(self, view, k):
        return Selection.top(view.need("hidden_BND").sum(-1), k + 1)


def test_what_is_wrong_elsewhere_is_heard_once_it_is_known():
    """Nobody waits for it, so it comes with the report, or with the next call."""
    b, model = prompts("llava", 1), sent("llava")
    with pytest.raises(SignalError, match=r"kept 19 to 19 of 36"), attach(model, Plan((Cut("input", TooMany(), 0.5),))):
        prefill(model, b)
    holed = prompts("llava", 1)
    holed.inputs["pixel_values"] = torch.full_like(b.inputs["pixel_values"], torch.nan)
    with attach(model, method("uniform", keep=0.5)) as attached:
        prefill(model, holed)
        with pytest.raises(SignalError, match="NaN or infinity in hidden_BND of image 0 of prompt 0"):
            attached.report  # noqa: B018


def test_the_device_that_is_elsewhere_counts_and_waits():
    """What holds the numbers above: whatever a GPU would wait for is seen."""
    with Elsewhere() as counts:
        x = torch.arange(6, device=FAR)
        x[x > 2] = 0
        assert x.tolist() == [0, 1, 2, 0, 0, 0]
        assert float(x.sum()) == 3
        assert len(x.nonzero()) == 2
        x[torch.tensor([1])] = 5
        torch.tensor([1.0], device=FAR)
        torch.ones(2).to(FAR, non_blocking=True)
        with pytest.raises(RuntimeError, match="tensors on"):
            x + torch.ones(6)
    assert counts.waits == {
        "mask": 1, "to host": 1, "_local_scalar_dense": 1, "nonzero": 1, "index from host": 1, "to device": 1,
    }  # fmt: skip
    assert counts.names["arange"] == counts.names["gt"] == counts.names["sum"] == 1
