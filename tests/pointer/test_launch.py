"""A pointer's walk as one kernel, or one compiled loop: the picks of the steps in torch."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.ops import roads
from foveate.pointer import launch
from foveate.pointer.candidates import Candidates
from foveate.pointer.config import PointerConfig
from foveate.pointer.picking import walk
from foveate.pointer.pointing import Pointing
from foveate.pointer.selector import PointerSelector

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = [
    ("hazard", True, True, 1, 1.0), ("hazard", True, True, 4, 0.2), ("softmax", True, False, 4, 1.0),
    ("none", False, True, 5, 1.0), ("softmax", False, True, 16, 0.0),
]  # fmt: skip


def pointing(stop, coverage, state, group, lead, seed=0):
    torch.manual_seed(seed)
    config = PointerConfig(
        24, 0.3, width=16, likeness=8, group=group, coverage=coverage, state=state, stop=stop, lead=lead
    )
    made = Pointing(config)
    for p in made.parameters():  # far from how training begins, so that everything moves
        torch.nn.init.normal_(p, std=0.5)
    return made.to(DEVICE)


def tokens(seed, b, n, kind):
    x = torch.randn(b, n, 24, generator=torch.Generator().manual_seed(seed))
    return x[:, torch.arange(n) // 2] if kind == "copies" else x


@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_picks_what_the_steps_pick(monkeypatch, way):
    pytest.importorskip("triton")
    steps, x = pointing(*way), tokens(1, 2, 13, "normal").to(DEVICE)
    with roads.plain_torch():
        expected = walk(steps, Candidates(x), 7)
    monkeypatch.setattr(roads, "_has_triton", lambda device: True)
    found = walk(steps, Candidates(x), 7)
    assert torch.equal(found.order_BT, expected.order_BT)
    torch.testing.assert_close(found.stop_BT, expected.stop_BT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), b=st.integers(1, 3), n=st.integers(1, 40), copied=st.booleans(), data=st.data())
def test_the_loop_picks_what_the_steps_pick(way, seed, b, n, copied, data):
    """Ties included: what differs in the last bits of a float64 is the same float32."""
    pytest.importorskip("numba")
    steps, most = pointing(*way, seed).cpu(), data.draw(st.integers(1, n))
    x = tokens(seed, b, n, "copies" if copied else "normal")
    real = None
    if data.draw(st.booleans()):  # ragged; more picks than tokens fall on padding, lowest first, by either road
        real = torch.arange(n) < torch.randint(1, n + 1, (b, 1), generator=torch.Generator().manual_seed(seed))
    found = walk(steps, Candidates(x, real), most)
    with roads.plain_torch():
        expected = walk(steps, Candidates(x, real), most)
    assert torch.equal(found.order_BT, expected.order_BT)
    torch.testing.assert_close(found.stop_BT, expected.stop_BT, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", [w for w in WAYS if w[0] != "none"])
@pytest.mark.parametrize("b", [1, 3])
def test_a_walk_that_is_left_early_lacks_nothing_that_stands(way, b):
    pytest.importorskip("numba")
    steps, x = pointing(*way).cpu(), tokens(2, b, 60, "normal")
    whole, lengths = walk(steps, Candidates(x), 60), set()
    for bias in (-30.0, -10.0, -4.0, 0.0, 4.0, 30.0):
        left = walk(steps, Candidates(x), 60, bias)
        t = left.order_BT.shape[1]
        lengths.add(t)
        assert torch.equal(left.order_BT, whole.order_BT[:, :t])
        standing = whole.standing(steps.config, bias)
        assert torch.equal(left.standing(steps.config, bias), standing[:, :t]) and not standing[:, t:].any()
    assert len(lengths) > 1, "some bias ended some walk early"


def test_the_shipped_selector_goes_by_the_loop_and_picks_the_same(monkeypatch):
    pytest.importorskip("numba")
    select = PointerSelector.from_pretrained("tiny")
    taken = []
    monkeypatch.setattr(launch, "loop", lambda *a, loop=launch.loop: taken.append(1) or loop(*a))
    x = torch.randn(2, 576, 256, generator=torch.Generator().manual_seed(3)) * select.encoder.std_D
    x = Candidates(x + select.encoder.mean_D)
    found = walk(select.pointing, x, 64)
    with roads.plain_torch():
        assert torch.equal(found.order_BT, walk(select.pointing, x, 64).order_BT)
    assert taken == [1]


def test_the_exact_steps_share_nothing_that_could_be_trained():
    steps = pointing(*WAYS[0]).cpu()
    before = copy.deepcopy(steps.state_dict())
    with torch.no_grad():
        scene, memory = steps.scene(Candidates(tokens(0, 1, 9, "normal")))
        wide, _, _ = steps.exact(scene, memory)
        for p in [*wide.parameters()]:
            p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in steps.state_dict().items())
    assert all(p.dtype == torch.float32 for p in steps.parameters())
