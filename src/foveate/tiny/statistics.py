"""The little statistics that the instrument's claims need."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson's formula; (0, 1) for no trials."""
    if total == 0:
        return 0.0, 1.0
    p, z = right / total, 1.96
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(a: Tensor, b: Tensor) -> float:
    """McNemar's test of two bool vectors over the same questions."""
    return mcnemar(int((a & ~b).sum()), int((b & ~a).sum()))


def mcnemar(better: int, worse: int) -> float:
    """Two-sided exact McNemar test: how surprising so uneven a split of the discordant questions is."""
    n, k = better + worse, min(better, worse)
    # In whole numbers up to the last division: exact whatever n is.
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: reject those at most 0.05, and the chance of any false rejection stays below 5%."""
    order = sorted(range(len(values)), key=values.__getitem__)
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = highest
    return corrected


def auc(score: Tensor, wanted: Tensor) -> float:
    """The chance that a wanted token scores above another, ties broken by place; NaN where one side is empty."""
    ranks = score.argsort().argsort().double()
    n, m = int(wanted.sum()), int((~wanted).sum())
    if n == 0 or m == 0:
        return math.nan
    return float((ranks[wanted].sum() - n * (n - 1) / 2) / (n * m))


def mean(values: list[float]) -> float:
    """The mean of those that are numbers."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
