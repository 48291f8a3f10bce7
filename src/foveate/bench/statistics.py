"""Intervals and paired tests for scores of the same questions, answered several ways.

Right-or-wrong scores get Wilson's interval and McNemar's exact test; partial credit gets the bootstrap over questions
for both. Differences always get the paired bootstrap interval, whatever the scores. Examples are taken as independent:
a task with several questions a picture has fewer independent ones than questions, and its intervals are too narrow.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.errors import FoveateError, install
from foveate.tiny.statistics import holm, mcnemar, wilson

__all__ = ["Paired", "bootstrap", "compare", "holm", "interval", "mcnemar", "needs_scipy", "wilson"]

RESAMPLES = 4000
_SEED = 0
Scores = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Scores of a minus scores of b, question by question.

    Args:
        difference: mean of a - b.
        low, high: its 95% interval, by the paired bootstrap.
        p: two-sided chance of a difference this large where there is none.
        better, worse: questions where a scores above, and below, b.
        test: "mcnemar" (exact) or "bootstrap".
    """

    difference: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    test: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for programs."""
        return asdict(self)


def needs_scipy() -> None:
    """Say what to install, before anything is measured.

    Raises:
        FoveateError: SciPy is missing.
    """
    try:
        import scipy.stats  # noqa: F401
    except ImportError:
        raise FoveateError(f"foveate bench needs SciPy for its tests: {install('bench')}") from None


def binary(scores: Scores) -> bool:
    """Whether every score is right or wrong, without partial credit."""
    return bool(np.isin(np.asarray(scores), (0.0, 1.0)).all())


def interval(scores: Scores) -> tuple[float, float]:
    """The 95% interval of a mean score in 0..1: Wilson's for right or wrong, else the bootstrap's."""
    values = np.asarray(scores, dtype=np.float64)
    if binary(values):
        return wilson(int(values.sum()), len(values))
    low, high, _ = bootstrap(values, floor=0.0)
    return low, high


def compare(a: Scores, b: Scores) -> Paired:
    """Compare two ways over the same questions, in the same order.

    Raises:
        FoveateError: not the same number of scores, or none.
    """
    one, two = (np.asarray(x, dtype=np.float64) for x in (a, b))
    if one.shape != two.shape or not len(one):
        raise FoveateError(
            f"{len(one)} scores against {len(two)}; a paired comparison needs the same questions in both"
        )
    difference = one - two
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    low, high, p = bootstrap(difference)
    if right_or_wrong := binary(one) and binary(two):
        p = mcnemar(better, worse)
    return Paired(float(difference.mean()), low, high, p, better, worse, "mcnemar" if right_or_wrong else "bootstrap")


def bootstrap(values: Scores, floor: float = -1.0) -> tuple[float, float, float]:
    """Percentile interval (95%) of the mean, and the two-sided p that the mean is 0. Seeded: the same every time.

    Values that are all alike have no spread to resample: what was never seen among them may still make up as much as
    Wilson's interval of none in so many allows, and lie as far off as `floor` or 1.

    p is the share of resampled means, moved so that their centre is 0, that lie as far out as the mean itself; but no
    less than where all signs are alike by chance: so few values resample to themselves, whatever they were drawn from.
    """
    x = np.asarray(values, dtype=np.float64)
    mean, least = float(x.mean()), max(1 / (1 + RESAMPLES), 2.0 ** (1 - np.count_nonzero(x)))
    if len(x) < 2 or bool((x == x[0]).all()):
        rare = wilson(0, len(x))[1]
        return mean - rare * (mean - floor), mean + rare * (1 - mean), 1.0 if mean == 0 else min(1.0, least)
    from scipy.stats import bootstrap as resample

    found = resample(
        (x,), np.mean, n_resamples=RESAMPLES, batch=500, method="percentile", rng=np.random.default_rng(_SEED)
    )
    far = np.abs(found.bootstrap_distribution - mean) >= abs(mean) - 1e-12
    p = max(min(1.0, least), (1 + int(far.sum())) / (1 + RESAMPLES))
    return float(found.confidence_interval.low), float(found.confidence_interval.high), p
