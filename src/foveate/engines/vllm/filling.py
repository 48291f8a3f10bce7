"""Exactly as many tokens as there are placeholders: an adaptive selector is turned to its cap, and topped up to it."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foveate.selection import TokenView


def at_cap(select: Any) -> Any:
    """The selector with its knob at the end that keeps most; as it is where it has none."""
    knob = getattr(select, "knob", None) if select.adaptive else None
    if knob is None or getattr(select, knob.name, None) is None:
        return select
    value = knob.high if knob.rising else knob.low
    make = getattr(select, "turned", None)
    return make(value) if make else replace(select, **{knob.name: value})


def merges(select: Any) -> bool:
    """Whether the selector mixes tokens: asked about 16 random ones; True where it cannot answer about those."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"text_BTD": (1, 3, 8)}
    fields: dict[str, Any] = {
        name: (1, 4, 4) if name == "grid" else torch.rand(shapes.get(name, (1, 16, 8)), generator=draw)
        for name in select.reads
    }
    fields |= {name: value[..., 0] for name, value in fields.items() if name.endswith("_BN")}
    try:
        return select(TokenView(**fields), 4).mix_BKN is not None
    except Exception:
        return True


def fill(kept: Tensor, mix: Tensor | None, tokens: int, k: int) -> tuple[Tensor, Tensor | None]:
    """Exactly k of an image's tokens: those kept and, where they are fewer, others evenly spaced, as they are.

    Args:
        kept: places that stay, ascending, at most k.
        mix: their weights [len(kept), tokens], or None.
        tokens: of the image.
        k: how many there must be.
    """
    if (more := k - len(kept)) <= 0:
        return kept, mix
    free = torch.ones(tokens, dtype=torch.bool, device=kept.device)
    free[kept] = False
    rest = free.nonzero().flatten()
    added = rest[((torch.arange(more, device=rest.device) + 0.5) * len(rest) / more).long()]
    places, order = torch.cat((kept, added)).sort()
    if mix is not None:
        own = torch.nn.functional.one_hot(added, tokens).to(mix)
        mix = torch.cat((mix, own))[order]
    return places, mix
