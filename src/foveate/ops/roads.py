"""Which of several ways to the same picks is taken: kernels, compiled loops, or the torch loops that always work."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from foveate.errors import install

MOST = 8192
"""Tokens of an image that one Triton program holds."""

_ROOM = 2 << 30

_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def plain_torch() -> Iterator[None]:
    """Take the torch loops whatever there is: what all other ways are compared with."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def on_host(x: Tensor) -> bool:
    """Whether looking at values is free, so that work may follow what they say."""
    return x.device.type == "cpu" and not _plain.get() and not torch.compiler.is_compiling()


def compiled(x: Tensor) -> bool:
    """Whether numba's loops serve this tensor; says once, in one line, where they could and are not installed."""
    return on_host(x) and _has_numba()


def kernels(x_BND: Tensor) -> bool:
    """Whether Triton's kernels serve this tensor: on an NVIDIA GPU, up to `MOST` tokens."""
    return (
        x_BND.shape[1] <= MOST and not _plain.get() and not torch.compiler.is_compiling() and _has_triton(x_BND.device)
    )


def groups(x_BND: Tensor) -> list[slice]:
    """Images whose matrices, of two numbers of four bytes a pair, are in memory at one time."""
    b, n = x_BND.shape[:2]
    size = max(1, _ROOM // (8 * n * n))
    return [slice(at, at + size) for at in range(0, b, size)]


@cache
def _has_triton(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.cuda is not None and find_spec("triton") is not None


@cache
def _has_numba() -> bool:
    try:
        # Not there, not for this numpy, or nowhere to keep what it compiles.
        import_module("foveate.ops.compiled.farthest")
    except (ImportError, RuntimeError) as error:
        warnings.warn(
            f"numba does not serve here ({error}), so tokens are picked by torch, some 20 times slower: "
            f"{install('fast')}",
            stacklevel=4,
        )
        return False
    return True
