"""The number of tokens falls with depth along a sigmoid whose midpoint is solved for, so every budget is met.

P-Sigmoid, of the paper on G-Search (docs/methods/gsearch.md). No code was released. Our readings:

- The rate of layer i of L is top / (1 + exp(slope (i / L - midpoint))). The paper's slope is per layer index and its
  printed sign grows with depth; ours is per fraction of the depth, so that a slope found on one model means the same
  on another of other depth (the paper's range of 0.05 to 5 for 32 layers is 1.6 to 160).
- The budget is the mean rate over the layers, or the share of the visual tokens' operations.
- The first layer sees everything, because its attention does not know the question; below 1 / L no budget can then be
  met. `first=` allows a cut before it.
- Which attention ranks: see `layerwise`; the paper says "of the previous layer" and no more.

Differences: `top` lowers the upper level (with a cut before the first layer the plain sigmoid spends tokens there that
are worth more later), and the curve's foot is cut off at 1/2000, so that deep layers come down to no token at all.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from foveate.cut import check_keep
from foveate.errors import PlanError
from foveate.methods.idle import refuse_idle
from foveate.methods.layerwise import First, layerwise
from foveate.ops.budget import apportion, solve
from foveate.ops.flops import LayerShape, visual_share
from foveate.plan import Plan
from foveate.typed import checked

FOOT = 1 / 2000
SLOPE = 12.0
_DEPTH = 32
_FAR = 60.0
"""A sigmoid this far from its midpoint is 1 to the last bit of a float."""


@checked
def psigmoid(
    keep: float | int,
    slope: float = SLOPE,
    top: float = 1.0,
    depth: int | None = None,
    first: First = "full",
    raters: Literal["last", "text", "dynamic", "received"] = "last",
    attention: Literal["previous", "own"] = "previous",
    tokens: int | None = None,
    shape: LayerShape | None = None,
    text: int = 0,
) -> Plan:
    """P-Sigmoid: attention top-k before every decoder layer, the numbers along a sigmoid.

    Args:
        keep: a fraction is the mean over all layers of the share that stays. A number is the mean number of tokens;
            without `tokens` over the layers that are cut (how much the first one adds depends on the image), with the
            midpoint half-way down.
        slope: steepness per depth of the model; larger is nearer to a cliff, smaller to an even rate.
        top: the upper level; the layers before the first cut are not bound by it.
        depth: decoder layers of the LLM. Without it the plan is laid out for 32 and fits any model.
        first: what may fall before the first layer; see `layerwise`.
        raters: whose attention ranks; see `layerwise`.
        attention: of which layer; see `layerwise`.
        tokens: visual tokens of an image, where all have as many. Layers then hold whole numbers whose mean is exact.
        shape: of a decoder layer. `keep` is then a share of the visual tokens' operations instead of their number.
        text: other tokens of a prompt, for `shape`.

    Raises:
        PlanError: a budget that the first layer alone exceeds, or that the upper level cannot reach; slope or top out
            of range; `tokens`, `shape` or `text` without what they need, or `top` for a number that the curve is scaled
            to.
    """
    given = dict(locals())
    keep = check_keep(keep)
    if not slope > 0 or math.isinf(slope):
        raise PlanError(f"slope is {slope}; it must be a number above 0 (about 2 to 60)")
    if not 0 < top <= 1:
        raise PlanError(f"top is {top}; the upper level is a share in (0, 1]")
    if tokens is not None and (tokens < 1 or depth is None):
        raise PlanError(f"tokens is {tokens}; it must be at least 1, and whole numbers for each layer also need depth=")
    if shape is not None and tokens is None:
        raise PlanError("a budget in operations needs tokens= and depth= beside shape=")
    if shape is None:
        refuse_idle(psigmoid, given, ("text",), "a budget in tokens", "shape=")
    if isinstance(keep, int) and tokens is None:
        refuse_idle(psigmoid, given, ("top",), f"keep={keep}, to which the curve is scaled", "tokens= and depth=")
    layers = _DEPTH if depth is None else depth
    if layers < 2:
        raise PlanError(f"depth is {layers}; P-Sigmoid cuts between decoder layers and needs at least 2")
    full = first == "full"

    def rates(midpoint: float) -> list[float]:
        curve = [top * _sigmoid(slope * (midpoint - i / layers)) for i in range(layers)]
        return [1.0, *curve[1:]] if full else curve

    make = partial(layerwise, raters=raters, attention=attention, first=first)
    if isinstance(keep, int) and tokens is None:
        return _numbers(keep, rates(0.5), layers, full, depth is None, make)
    share = keep if isinstance(keep, float) else keep / (tokens or 1)

    def value(held: list[float]) -> float:
        n = float(tokens or 1)
        return visual_share(shape, [n * r for r in held], n, text) if shape else sum(held) / layers

    low, high = -_FAR / slope, 1 + _FAR / slope
    ceiling = value(rates(high))
    _check(share, keep, value(rates(low)), ceiling, layers, top)
    # Near the ceiling the curve is flat to the last bit, and there is nothing to solve.
    held = rates(high if share >= ceiling - 1e-9 else solve(share, lambda m: value(rates(m)), low, high))
    if tokens is None:
        plan = make(held)
        return plan if depth is not None else plan.relative(layers, share)
    counts = [tokens * r for r in held]
    if shape:
        whole = _within(share, counts, lambda c: visual_share(shape, c, tokens, text))
    else:
        whole = apportion(counts, round(share * layers * tokens))
    if not full and not whole[0]:
        raise PlanError(f"keep={keep} leaves not one of {tokens} tokens before the first layer; ask for more")
    return make(whole)


def _sigmoid(x: float) -> float:
    value = 1 / (1 + math.exp(-min(max(x, -700.0), 700.0)))
    return max(0.0, (value - FOOT) / (1 - FOOT))


def _check(share: float, keep: float | int, floor: float, ceiling: float, layers: int, top: float) -> None:
    if share < floor - 1e-12:
        raise PlanError(
            f"keep is {keep}, but the first of {layers} layers sees all tokens, so the mean stays above {floor:.4g}; "
            'ask for more, or allow a cut before the first layer with first="cls" (or "own", "spread")'
        )
    if share > ceiling + 1e-12:
        raise PlanError(f"keep is {keep}, but with top={top} the mean stays below {ceiling:.4g}; raise top")


def _numbers(
    keep: int, rates: list[float], layers: int, full: bool, any_depth: bool, make: Callable[[list[int]], Plan]
) -> Plan:
    """Numbers for images of unknown size: the curve, scaled to a mean of `keep` over the layers that are cut."""
    curve = rates[1:] if full else rates
    scale = keep * len(curve) / sum(curve)
    counts = apportion([scale * r for r in curve], keep * len(curve))
    # What the first layer sees is not known, but it is no less than what the second may keep.
    plan = make([counts[0] + 1, *counts] if full else counts)
    return plan.relative(layers) if any_depth else plan


def _within(share: float, counts: list[float], value: Callable[[list[int]], float]) -> list[int]:
    """The counts rounded down, then up one by one as long as the budget holds, the largest fractions first."""
    out = [int(c + 1e-9) for c in counts]
    for i in sorted(range(len(counts)), key=lambda i: (-round(counts[i] - out[i], 9), i)):
        more = [n + (i == j) for j, n in enumerate(out)]
        if value(more) <= share + 1e-12 and counts[i] > out[i] and (i == 0 or more[i] <= out[i - 1]):
            out = more
    return out
