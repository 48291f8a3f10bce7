"""Learned selectors for tests that run over every method: not trained, but saved, and of any width."""

import tempfile
from functools import cache
from typing import Any

import torch

from foveate.pointer import PointerConfig, PointerSelector

LEARNED = ("sts",)


def lively(module: torch.nn.Module, seed: int) -> Any:
    """Weights under which scores, states and stops all matter: as made, many parts do nothing yet."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=g) * (0.6 / max(1, p.shape[-1] if p.ndim else 1) ** 0.5))
    return module.eval()


@cache
def folder(width: int) -> str:
    """A saved selector of tokens of this width, whose scores, state and stop all matter."""
    torch.manual_seed(0)
    select = PointerSelector(PointerConfig(features=width, budget=0.2, width=16, heads=2, likeness=8))
    with torch.no_grad():
        for p in select.parameters():
            p.add_(torch.randn(p.shape) * (0.5 / max(1, p.shape[-1] if p.ndim else 1) ** 0.5))
    path = tempfile.mkdtemp(prefix="foveate-selector-")
    select.save_pretrained(path)
    return path


def options(method: str, width: int = 32) -> dict[str, Any]:
    """What a method needs besides `keep` for tokens of this width; 32 is the zoo's."""
    return {"path": folder(width)} if method in LEARNED else {}
