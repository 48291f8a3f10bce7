"""Ways of choosing tokens for scenes of the embedded world, each an answer to: which tokens of each scene stay?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.hf.attach import attach
from foveate.methods import METHODS
from foveate.ops.farthest import farthest, gaps
from foveate.plan import Plan
from foveate.pointer.picking import Walk
from foveate.selection import Selection, TokenView
from foveate.tiny.inputs import PROMPT, to_pixels
from sts_world import World

LEARNED = ("sts",)
SETTINGS: dict[str, dict[str, Any]] = {"tops": {"transform": "rank"}}
"""[CLS] attention has a heavy tail here; see the docstring of methods/tops.py."""
_READS = frozenset({"hidden_BND", "encoder_BNC", "keys_BNC", "cls_attn_BN", "grid"})
_BATCH = 16


@dataclass(frozen=True)
class Chosen:
    """Tokens that stay, one entry an item: their numbers, rising; and the tokens themselves where they were merged."""

    kept: list[Tensor]
    merged: list[Tensor] | None = None


class _Spy:
    """Notes what it was shown, and keeps one token, so that the rest costs little."""

    reads, adaptive = _READS, True

    def __init__(self) -> None:
        self.views: list[TokenView] = []

    def __call__(self, view: TokenView, k: int) -> Selection:
        self.views.append(view)
        return Selection.of(torch.zeros(view.shape[0], 1, dtype=torch.long), view.shape[1])


@torch.no_grad()
def views(model: Any, processor: Any, world: World) -> list[TokenView]:
    """What text-blind selectors see of each batch of scenes, from a real attachment."""
    text = PROMPT.format(question="what is it?")
    ids = processor.tokenizer(text)["input_ids"]
    image = model.config.image_token_id
    ids = [x for i in ids for x in ([image] * 576 if i == image else [i])]
    spy = _Spy()
    with attach(model, Plan((Cut("input", spy, 575),))):
        for start in range(0, len(world.scenes), _BATCH):
            part = world.scenes[start : start + _BATCH]
            pixels = to_pixels(np.stack([np.asarray(s.image) for s in part])).to(model.dtype)
            model(input_ids=torch.tensor([ids] * len(part)), pixel_values=pixels, use_cache=False, logits_to_keep=1)
    return spy.views


def blind_methods(depth: int) -> dict[str, Callable[[int], Any]]:
    """Training-free methods that choose once, before the LLM, without the question: name -> (k -> selector)."""
    found = _once(_READS)
    tops = partial(METHODS["tops"], depth=depth, stages=1, **SETTINGS["tops"])
    found["tops, stage I"] = lambda k: tops(keep=k).cuts[0].select
    return found


def asking_methods() -> dict[str, Callable[[int], Any]]:
    """Training-free methods that choose once, before the LLM, by the question."""
    return {n: make for n, make in _once(_READS | {"text_BTD"}).items() if "text_BTD" in make(64).reads}


def _once(reads: frozenset[str]) -> dict[str, Callable[[int], Any]]:
    found: dict[str, Callable[[int], Any]] = {}
    for name, method in METHODS.items():
        if name in LEARNED:
            continue
        try:
            plan = method(keep=0.25)
        except Exception:  # a method that cannot be had without settings is no rival here
            continue
        cuts = plan.cuts
        if len(cuts) == 1 and cuts[0].at == "input" and cuts[0].over == "visual" and cuts[0].select.reads <= reads:
            found[name] = lambda k, m=method: m(keep=k).cuts[0].select
    return found


@torch.no_grad()
def by_selector(select: Any, k: int, seen: Sequence[TokenView]) -> Chosen:
    """What a selector keeps, batch by batch."""
    kept: list[Tensor] = []
    merged: list[Tensor] = []
    mixes = False
    for view in seen:
        answer = select(view.only(select.reads | {"hidden_BND"}), k)
        for b in range(len(answer.keep_BN)):
            places = answer.keep_BN[b].nonzero()[:, 0]
            kept.append(places)
            tokens = view.hidden_BND[b]
            if answer.mix_BKN is not None:
                mixes = True
                merged.append(answer.mix_BKN[b, : len(places)].to(tokens) @ tokens)
    return Chosen(kept, merged if mixes else None)


def first(order_BT: Tensor, counts_B: Sequence[int]) -> list[Tensor]:
    """The first so many of each order, rising."""
    return [order[:n].sort().values for order, n in zip(order_BT, counts_B, strict=True)]


@torch.no_grad()
def walked(selector: Any, world: World, most: int) -> Walk:
    """The first `most` picks of every item."""
    parts = [selector.walk(v, most) for v in world.views()]
    return Walk(torch.cat([p.order_BT for p in parts]), torch.cat([p.stop_BT for p in parts]))


@dataclass(frozen=True)
class Spread:
    """Farthest points of every scene in order, and how like each is to the likest before it."""

    order_BT: Tensor
    near_BT: Tensor

    def counts(self, threshold: float) -> list[int]:
        """Points before the first that is nearer than this to an earlier one."""
        return (self.near_BT < threshold).long().cumprod(1).sum(1).clamp(min=1).tolist()

    def threshold(self, mean: float) -> float:
        """Where the mean count is nearest to `mean`."""
        low, high = -1.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            more = sum(self.counts(middle)) / len(self.order_BT) < mean
            low, high = (middle, high) if more else (low, middle)
        return high


@torch.no_grad()
def spread(seen: Sequence[TokenView], most: int) -> Spread:
    """Training-free and adaptive: farthest points down to a distance, which is the same for all images."""
    orders, nears = [], []
    for view in seen:
        hidden = view.need("hidden_BND")
        order_BT = farthest(hidden, most)
        orders.append(order_BT)
        nears.append(1 - gaps(hidden, order_BT))
    return Spread(torch.cat(orders), torch.cat(nears))
