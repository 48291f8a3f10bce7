"""Which of several ways to the same picks is taken: loops compiled for the CPU, or the torch loops that always work."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

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


@cache
def _has_numba() -> bool:
    if find_spec("numba") is not None:
        return True
    warnings.warn(
        'numba is not installed, so tokens are picked by torch, some 20 times slower: pip install "foveate[fast]"',
        stacklevel=4,
    )
    return False
