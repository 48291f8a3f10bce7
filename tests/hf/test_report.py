"""Operations and memory in the report."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate import attach
from foveate.methods import METHODS, method
from zoo import DEPTH, Row, batch, build


def counted(model, b):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        out = model(**b.inputs, use_cache=True)
    return counter.get_total_flops(), out.past_key_values


@pytest.mark.parametrize("name", ["llava", "internvl"])
@pytest.mark.parametrize("plan", [method("uniform", keep=0.3), METHODS["vtw"](keep=0.5)])
def test_operations_are_those_that_run(name, plan):
    """What is saved is what PyTorch's own counter misses: tower and head are the same with and without."""
    model = build(name, "eager")
    size = (24, 24) if name == "llava" else 1
    b = batch(name, [Row([3, ("image", size), 9], 1), Row([3, ("image", size), 9], 2)])
    full, whole = counted(model, b)
    with attach(model, plan) as attached:
        less, cache = counted(model, b)
        report = attached.report
    assert report.flops_full - report.flops == full - less > 0
    held = [sum(t.numel() * t.element_size() for x in c.layers for t in (x.keys, x.values)) for c in (whole, cache)]
    assert report.cache_bytes == held[1]
    assert report.cache_bytes + report.cache_bytes_saved == held[0]
    assert report.to_dict()["flops"] == report.flops
    assert "in the decoder layers" in repr(report)
    assert len(report.images[0].per_layer) == DEPTH
