"""The Triton kernels, interpreted where no GPU is (`tests/conftest.py`): the picks of the loops on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import foveate.ops.gpu.farthest
import foveate.ops.gpu.rising
import foveate.ops.gpu.suppress
from foveate.errors import SignalError
from foveate.ops import roads
from foveate.ops.cosine import unit, whole
from foveate.ops.gpu import ahead, similar
from foveate.ops.residual import residual
from foveate.ops.suppress import suppress

from .scenes import features, starts, weights
from .test_roads import KERNELS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# The interpreter is slow: small, and no multiple of anything. All tokens are picked once, too.
SIZES = [(2, 19, 7), (1, 6, 6)]


@pytest.fixture
def launched(monkeypatch):
    """Kernels run on the CPU's tensors; and by the CPU's matrix, as a product of another shape rounds another way."""
    monkeypatch.setattr(roads, "_has_triton", lambda device: True)
    for room in (foveate.ops.gpu.farthest, foveate.ops.gpu.rising, foveate.ops.gpu.suppress):
        monkeypatch.setattr(room, "matrix", lambda x_BND: torch.stack([whole(u) for u in unit(x_BND.cpu())]).to(DEVICE))


@pytest.mark.parametrize(("b", "n", "k"), SIZES)
@pytest.mark.parametrize("kind", ["normal", "copies"])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("name", [n for n in KERNELS if n not in ("cover", "coverage weighted")])
def test_kernels_pick_what_the_loops_pick(launched, name, started, kind, b, n, k):
    x, w = features(b * n, b, n, 48, kind), weights(b * n, b, n)
    start = starts(n, b, n, 3) if started else None
    found = KERNELS[name](x.to(DEVICE), w.to(DEVICE), k, start).cpu()
    with roads.plain_torch():
        expected = KERNELS[name](x, w, k, start)
    if not (kind == "copies" and "balance" in name):  # copies tie, and relevances summed in another order may tip them
        assert torch.equal(found, expected)
    assert all(len(set(row)) == k for row in found.tolist()) or name in ("residual", "suppress")


def test_many_images_are_worked_on_some_at_a_time(launched, monkeypatch):
    x = features(0, 3, 9, 8).to(DEVICE)
    named = ("farthest", "coverage", "residual", "suppress")
    whole_batch = [KERNELS[name](x, x[..., 0].abs(), 4, None) for name in named]
    monkeypatch.setattr(roads, "_ROOM", 8 * 9 * 9)
    assert len(roads.groups(x)) == 3
    for name, expected in zip(named, whole_batch, strict=True):
        assert torch.equal(KERNELS[name](x, x[..., 0].abs(), 4, None), expected)


def test_residual_ends_where_the_rank_does(launched):
    x = features(1, 2, 14, 4)
    found = residual(x.to(DEVICE), 7).cpu()
    with roads.plain_torch():
        assert torch.equal(found, residual(x, 7)) and (found[:, 4:] == -1).all()


@pytest.mark.parametrize("soften", [None, "square", "linear"])
@pytest.mark.parametrize("hard", [None, 0.3, "growing"])
def test_suppression_of_every_kind(launched, soften, hard):
    """Copies, equal scores, rows of a batch with starts of different length, and images where nobody is left."""
    n, k = 13, 9
    radius = torch.linspace(0.0, 1.5, k, dtype=torch.float64) if hard == "growing" else hard
    many = [(8, "clusters")] if (soften, hard) == ("square", "growing") else []
    for b, kind in ((1, "normal"), (2, "copies"), *many):
        x = features(b, b, n, 48, kind).bfloat16()
        w, start = (weights(b, b, n) * 4).round() / 4, starts(b, b, n, 3)
        for given in (None, start):
            found = suppress(x.to(DEVICE), w.to(DEVICE), k, radius, soften, given).cpu()
            with roads.plain_torch():
                assert torch.equal(found, suppress(x, w, k, radius, soften, given))
    whole_batch = suppress(x.to(DEVICE), torch.full_like(w, -torch.inf).to(DEVICE), k).cpu()
    assert (whole_batch == torch.arange(k)).all(), "the first of those that are open, whatever their score"


@pytest.mark.parametrize("n", [5, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norms_divided_out_afterwards_give_the_same_similarities(n, dtype):
    x = features(n, 2, n, 40, "heavy").to(dtype)
    x[0, 3] = 0
    scaled = x.clone()
    scaled[1] *= 64  # a power of two: it rounds nothing, and must change nothing
    found = similar.matrix(scaled.to(DEVICE)).cpu()
    expected = torch.stack([whole(u) for u in unit(x)])
    assert (found - expected).abs().max() <= 2**30 * 4e-7, "to the rounding of a float32 product"
    assert torch.equal(found, found.mT) and (found.diagonal(dim1=1, dim2=2) == 1 << 30).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_cannot_be_compared_is_refused(value):
    x = features(2, 2, 5, 40)
    x[1, 3, 7] = value
    with pytest.raises(SignalError, match="NaN or infinity"):
        similar.matrix(x.to(DEVICE))


def test_large_numbers_do_not_overflow():
    x = features(4, 1, 20, 16) * 1e30
    x[0, 1] = 0
    assert (similar.matrix(x.to(DEVICE))[0].cpu() - whole(unit(x / 1e30)[0])).abs().max() <= 2**30 * 4e-7


def test_kernels_compile_for_three_generations_of_gpus():
    """Without a GPU. The interpreter passes what the compiler refuses, so this is a process of its own."""
    plain = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "foveate.ops.gpu.ahead", "--arch", "80,89,90", "--tokens", "576"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 3 * 15


def test_every_kernel_is_compiled_ahead():
    """Whatever is launched by itself: helpers, which begin with an underscore, are compiled with those."""
    listed = {(k.fn.__module__, k.fn.__name__) for _, k, _, _ in ahead.kernels(576)}
    for path in Path(ahead.__file__).parent.glob("*.py"):
        for name in re.findall(r"@triton\.jit[^\n]*\ndef ([a-z]\w*)", path.read_text()):
            assert (f"foveate.ops.gpu.{path.stem}", name) in listed
