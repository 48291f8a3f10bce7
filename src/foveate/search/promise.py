"""What can be said about data that nobody has seen yet, from examples that the search has not seen."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from foveate.errors import FoveateError, install

ERRORS = 2.0
"""A tolerance is resolved by data whose standard error of the mean loss is this many times smaller."""
EXACT = "exact: one-sided Clopper-Pearson bounds on answers lost and won, half of the error probability each"
ONE_WAY = "exact: one-sided Clopper-Pearson bound on the answers that differ"
WEIGHTED = "random weights over examples and one that loses the most possible, 9,999 draws"
_DRAWS, _AT_ONCE = 9_999, 256


@dataclass(frozen=True)
class Promise:
    """An upper bound on the mean loss.

    Args:
        loss: mean over the examples, full model minus plan.
        upper: the true mean loss is at most this, with the confidence.
        confidence: how often such a bound holds, over data drawn like this.
        examples: how many there were.
        how: the procedure.
    """

    loss: float
    upper: float
    confidence: float
    examples: int
    how: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a plan file."""
        return asdict(self)

    def sentence(self, metric: str) -> str:
        """What is claimed, and what it rests on."""
        unit = (lambda x: f"{x:.3f} nats a token") if metric == "likelihood" else (lambda x: f"{100 * x:.2f} points")
        return (
            f"On {self.examples} examples that the search did not see, the mean loss of {metric} is {unit(self.loss)}; "
            f"for data drawn the same way it is at most {unit(self.upper)} with {self.confidence:.0%} confidence "
            f"({self.how})."
        )


def promise(losses: Sequence[float], confidence: float = 0.95, one_way: bool = False, most: float = 1.0) -> Promise:
    """The one-sided upper confidence bound on the mean of paired losses.

    Args:
        losses: an example each.
        confidence: of the bound.
        one_way: losses are 0 or 1 by nature, as with agreement; then nothing can be won.
        most: what one example can lose at most, where losses are graded.

    Raises:
        FoveateError: no examples, or SciPy is missing.
    """
    n, mean = len(losses), fmean(losses) if losses else 0.0
    if not n:
        raise FoveateError("no examples are left to judge the plan by; give more data")
    stats = load_scipy()
    values = set(losses)
    if values <= {-1.0, 0.0, 1.0} and most <= 1:
        lost, won = sum(x > 0 for x in losses), sum(x < 0 for x in losses)
        error = 1 - confidence if one_way else (1 - confidence) / 2
        above = stats.binomtest(lost, n, alternative="less").proportion_ci(1 - error).high
        below = 0.0 if one_way else stats.binomtest(won, n, alternative="greater").proportion_ci(1 - error).low
        return Promise(mean, float(above - below), confidence, n, ONE_WAY if one_way else EXACT)
    return Promise(mean, _weighted(losses, most, confidence), confidence, n, WEIGHTED)


def _weighted(losses: Sequence[float], most: float, confidence: float) -> float:
    """Gaffke's bound: the quantile of means under Dirichlet weights, one of them on `most`.

    What is rare and dear may be missing from few examples, and no resample of them would have it. Of scores of 0 and 1
    this is Clopper-Pearson's bound; for others no case is known in which it holds less often (arXiv 2106.03163).
    """
    import numpy as np

    rng, means = np.random.default_rng(0), []
    values = np.asarray([*losses, most])
    for first in range(0, _DRAWS, _AT_ONCE):
        weights = rng.standard_exponential((min(_AT_ONCE, _DRAWS - first), len(values)))
        means.append(weights @ values / weights.sum(1))
    return float(np.quantile(np.concatenate(means), confidence))


def error(losses: Sequence[float]) -> float:
    """Standard error of the mean loss."""
    return stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else math.inf


def examples_needed(tolerance: float) -> int:
    """How many examples resolve a tolerance of lost answers.

    A loss of t comes from t n flipped answers at least, whose standard error is sqrt(t / n); that must be half of t.
    """
    return math.ceil(ERRORS**2 / tolerance)


def check_tolerance(tolerance: float, examples: int) -> None:
    """Refuse a tolerance of lost answers that the data cannot resolve.

    Raises:
        FoveateError: it is 0 or less, or too fine.
    """
    if not 0 < tolerance < 1:
        raise FoveateError(f"the tolerance is {tolerance}; it is a share of the answers, such as 0.01")
    if examples < (need := examples_needed(tolerance)):
        raise FoveateError(
            f"{examples} examples to search on cannot resolve a loss of {tolerance:g} (a single answer is "
            f"{1 / max(examples, 1):.2g}); give at least {need}, or tolerate {ERRORS**2 / max(examples, 1):.2g}"
        )


def check_resolved(tolerance: float, losses: Sequence[float]) -> None:
    """Refuse a tolerance that is finer than what these losses of a mild plan let one see.

    Raises:
        FoveateError: it is so.
    """
    spread = ERRORS * error(losses)
    if spread > tolerance:
        need = math.ceil(len(losses) * (spread / tolerance) ** 2)
        raise FoveateError(
            f"{len(losses)} examples to search on cannot resolve a loss of {tolerance:.3g}: two standard errors of a "
            f"mild plan's loss are {spread:.3g}; give at least {need}, or tolerate {spread:.2g}"
        )


def load_scipy() -> Any:
    """SciPy's statistics, or what to install."""
    try:
        from scipy import stats
    except ImportError:
        raise FoveateError(f"searching needs SciPy: {install('search')}") from None
    return stats
