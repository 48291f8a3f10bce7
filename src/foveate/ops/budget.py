"""How many tokens each stretch of layers may hold so that their mean over all layers is the one asked for."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from foveate.errors import PlanError


def spans(layers: Sequence[int], depth: int) -> list[int]:
    """How many layers lie before the first cut, between cuts, and after the last.

    Raises:
        PlanError: layers are not rising, or lie outside the model.
    """
    edges = [0, *layers, depth]
    if any(not 0 <= x < depth for x in layers) or any(a >= b for a, b in pairwise(layers)):
        raise PlanError(f"layers are {tuple(layers)}; they must rise and lie in 0 to {depth - 1} (depth={depth})")
    return [b - a for a, b in pairwise(edges)]


def mean(keeps: Sequence[float], span: Sequence[int]) -> float:
    """Mean over the layers of what they hold."""
    return sum(k * s for k, s in zip(keeps, span, strict=True)) / sum(span)


def solve_shape(target: float, shape: Sequence[float], span: Sequence[int]) -> list[float]:
    """min(1, c * shape) with the c for which the mean over the layers is `target`, which is at most 1."""
    return _solve(target, span, lambda c: [min(1.0, c * x) for x in shape], 1 / min(shape))


def solve_ratio(target: float, span: Sequence[int]) -> float:
    """The r in (0, 1] for which stages that hold 1, r, r^2, ... have `target` as their mean.

    Raises:
        PlanError: the layers before the first cut alone reach the target.
    """
    check_floor(target, span)
    return _solve(target, span, lambda r: [r**i for i in range(len(span))], 1.0)[1]


def check_floor(target: float, span: Sequence[int]) -> None:
    """Refuse a mean that the layers before the first cut, which hold all tokens, already use up.

    Raises:
        PlanError: it is so.
    """
    if target * sum(span) <= span[0]:
        raise PlanError(
            f"keep is {target}, but {span[0]} of {sum(span)} layers come before the first cut and hold all tokens, so "
            f"the mean stays above {span[0] / sum(span):.4g}; ask for more, or cut earlier with layers="
        )


def whole(keeps: Sequence[float], span: Sequence[int]) -> list[int]:
    """Whole numbers, at least 1 and never rising; each makes up for the rounding of those before it."""
    out: list[int] = []
    owed = 0.0
    for keep, length in zip(keeps, span, strict=True):
        count = max(1, int(keep + owed / length + 0.5)) if length else max(1, int(keep + 0.5))
        out.append(min(count, *out) if out else count)
        owed += (keep - out[-1]) * length
    return out


def apportion(counts: Sequence[float], total: int) -> list[int]:
    """Whole numbers whose sum is `total`, each within one of its count; never growing where the counts do not.

    The largest fractions are rounded up, the earlier of equal ones first.

    Raises:
        PlanError: `total` is not the sum of the counts, give or take a rounding.
    """
    floor = [int(c + 1e-9) for c in counts]
    up = total - sum(floor)
    order = sorted(range(len(counts)), key=lambda i: (-round(counts[i] - floor[i], 9), i))
    if not 0 <= up <= len(counts):
        raise PlanError(f"{total} tokens cannot be shared out as {sum(counts):g}")
    return [n + (i in order[:up]) for i, n in enumerate(floor)]


def solve(target: float, value: Callable[[float], float], low: float, high: float) -> float:
    """The knob between low and high at which a function that never falls reaches the target, from above."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < target else (low, middle)
    return high


def _solve(target: float, span: Sequence[int], keeps: Callable[[float], list[float]], high: float) -> list[float]:
    # The mean rises with the knob, so halving finds it to the last bit of a float.
    return keeps(solve(target, lambda knob: mean(keeps(knob), span), 0.0, high))
