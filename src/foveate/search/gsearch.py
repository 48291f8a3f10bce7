"""From shallow to deep, the fewest tokens each layer needs: G-Search, the paper's scenario I (docs/methods/gsearch.md).

A candidate holds for its layer and every deeper one, since dropped tokens cannot come back. The paper finds it by
Bayesian optimisation of cost against an effect that must not fall; `how="grid"` halves a geometric grid of counts
instead, which is cheaper and as fine as the data can tell.

Our readings: the tolerance is against the full model and is spread over the layers (with all of it at the first, that
one spends everything, and a single flipped answer then blocks the others); no layer's part of it is finer than the
data resolves; the first layer is left out unless something may fall before it.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from foveate.errors import FoveateError
from foveate.search.propose import propose

How = Literal["grid", "bayes"]
Losses = Callable[[Sequence[tuple[float, ...]], int], Sequence[float]]
"""(schedules, one keep a layer each; the layer that is searched) -> the loss of each."""


def grid(tokens: int) -> list[float]:
    """0, 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ... of the tokens of an image, as shares, up to all."""
    counts = [0, 1, 2, 4, 8]
    step = 16
    while step < tokens:
        counts += [step, step * 3 // 2]
        step *= 2
    return [c / tokens for c in counts if c < tokens] + [1.0]


def searched(depth: int, stride: int = 1, first: bool = False, whole: int = 1) -> list[int]:
    """The layers whose count is searched; those between have the count of the one before.

    Args:
        depth: decoder layers.
        stride: every so many.
        first: the first layer is searched too; else
        whole: so many layers see everything (the paper's form: 2).

    Raises:
        FoveateError: a stride of which no layer is left, or layers left whole where the first is searched.
    """
    if whole < 1 or (first and whole > 1):
        raise FoveateError(f'whole is {whole}; it must be at least 1, and 1 unless first is "full"')
    start = 0 if first else whole
    if stride < 1 or start >= depth:
        raise FoveateError(
            f"stride is {stride} and {start} of {depth} layers are left whole; the stride must be at least 1, and a "
            "layer be left"
        )
    return list(range(start, depth, stride))


def gsearch(
    losses: Losses,
    depth: int,
    layers: Sequence[int],
    allowed: Callable[[float], float],
    tokens: int,
    how: How = "grid",
    width: int = 1,
    trials: int = 12,
    weight: float = 1.0,
    seed: int = 0,
) -> tuple[float, ...]:
    """The schedule: one keep a layer.

    Args:
        losses: evaluates schedules.
        depth: decoder layers.
        layers: those that are searched, rising.
        allowed: share of the layers settled with this one (1 at the last) -> the loss that is allowed by then.
        tokens: visual tokens of an image, for the grid.
        how: "grid" or "bayes".
        width: candidates a round; more than 1 lets processes share the work, at some waste.
        trials: evaluations a layer, for "bayes".
        weight: of loss beyond what is allowed, in multiples of it, against the share of tokens kept, for "bayes".
        seed: of the optimiser.
    """
    keeps = [1.0] * depth
    for number, layer in enumerate(layers, 1):
        limit = allowed(number / len(layers))

        def ask(values: Sequence[float], layer: int = layer) -> Sequence[float]:
            return losses([(*keeps[:layer], *[v] * (depth - layer)) for v in values], layer)

        if how == "grid":
            found = _by_grid(ask, [g for g in grid(tokens) if g < keeps[layer]], keeps[layer], limit, width)
        else:
            found = _by_bayes(ask, keeps[layer], limit, tokens, width, trials, weight, seed + layer)
        keeps[layer:] = [found] * (depth - layer)
        if found == 0:
            break
    return tuple(keeps)


def _by_grid(
    ask: Callable[[Sequence[float]], Sequence[float]], options: list[float], now: float, limit: float, width: int
) -> float:
    low, high = -1, len(options)
    while high - low > 1:
        inside = min(width, high - low - 1)
        tried = [low + (high - low) * (j + 1) // (inside + 1) for j in range(inside)]
        found = ask([options[i] for i in tried])
        # From the fullest down. What lies below the first that fails is not looked at: one that passes there is lucky.
        for i, loss in reversed(list(zip(tried, found, strict=True))):
            if loss > limit:
                low = i
                break
            high = i
    return now if high == len(options) else options[high]


def _by_bayes(
    ask: Callable[[Sequence[float]], Sequence[float]],
    now: float,
    limit: float,
    tokens: int,
    width: int,
    trials: int,
    weight: float,
    seed: int,
) -> float:
    most = round(now * tokens)
    if most == 0:
        return now

    def whole(share: float) -> float:
        return round(share * most) / tokens

    def value(keep: float, loss: float) -> list[float]:
        return [keep / now + weight * max(0.0, loss / limit - 1)]

    # Both ends: keeping all is known to be allowed, and none is tried first.
    known: list[tuple[dict[str, float], list[float]]] = [({"share": 1.0}, [1.0])]
    passed, tried = now, 0
    while tried < trials:
        count = min(width, trials - tried)
        shares = (
            [0.0, *(j / count for j in range(1, count))]
            if not tried
            else [
                p["share"]
                for p in propose(
                    lambda t: {"share": t.suggest_float("share", 0.0, 1.0)}, known, count, seed * 1000 + tried, "gp", 4
                )
            ]
        )
        for share, loss in zip(shares, ask([whole(s) for s in shares]), strict=True):
            known.append(({"share": share}, value(whole(share), loss)))
            if loss <= limit:
                passed = min(passed, whole(share))
        tried += count
        if passed == 0:
            break
    return passed
