"""A pointer's walk as one kernel: the picks of the steps in torch, and their stops up to rounding."""

import pytest
import torch

pytest.importorskip("triton")

from foveate.ops import roads
from foveate.pointer.candidates import Candidates
from foveate.pointer.config import PointerConfig
from foveate.pointer.picking import walk
from foveate.pointer.pointing import Pointing

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("stop", "coverage", "state", "group"),
    [("hazard", True, True, 1), ("hazard", True, True, 4), ("softmax", True, False, 4), ("none", False, True, 4)],
)
def test_it_picks_what_the_steps_pick(monkeypatch, stop, coverage, state, group):
    torch.manual_seed(0)
    config = PointerConfig(24, 0.3, width=16, likeness=8, group=group, coverage=coverage, state=state, stop=stop)
    pointing = Pointing(config).to(DEVICE)
    for p in pointing.parameters():  # far from how training begins, so that everything moves
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(2, 13, 24, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    with roads.plain_torch():
        steps = walk(pointing, Candidates(x), 7)
    monkeypatch.setattr(roads, "_has_triton", lambda device: True)
    kernel = walk(pointing, Candidates(x), 7)
    assert torch.equal(kernel.order_BT, steps.order_BT)
    torch.testing.assert_close(kernel.stop_BT, steps.stop_BT, rtol=1e-4, atol=1e-4)
