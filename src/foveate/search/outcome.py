"""What a plan did on a set of examples, and by which metrics searches go."""

import math
from dataclasses import dataclass
from statistics import fmean

from foveate.errors import FoveateError, unknown

SEARCH_METRICS = ("exact", "vqa", "agreement", "likelihood")
"""`exact`, `vqa`: as in `foveate.metrics`; `agreement`: 1 where the answer is the full model's, token by token;
`likelihood`: minus the mean over the tokens of -log(0.99 p + 0.01), for the first answer."""

FLOOR = 0.01
"""A token that is wrong for sure costs 4.6 nats and no more: else a few questions would decide about all."""
MOST = -math.log(FLOOR)
"""What an example can lose at most in likelihood."""


def check_metric(name: str) -> None:
    """Refuse a metric that searches do not know.

    Raises:
        FoveateError: it is so.
    """
    if name not in SEARCH_METRICS:
        raise FoveateError(unknown("metric", name, SEARCH_METRICS, see="foveate search --help"))


def needs_answers(metric: str) -> bool:
    """Whether the metric compares with what the data says."""
    return metric != "agreement"


@dataclass(frozen=True)
class Outcome:
    """One plan on all examples.

    Args:
        scores: an example each, in the order of the data; higher is better.
        budget: visual tokens that stay, mean over layers and examples, as a share.
        flops: what is left of the visual tokens' operations, as a share; the budget, where the model's config does not
            tell what a layer costs.
    """

    scores: tuple[float, ...]
    budget: float
    flops: float

    @property
    def score(self) -> float:
        """Mean score."""
        return fmean(self.scores)


def losses(full: Outcome, plan: Outcome) -> list[float]:
    """What each example lost."""
    return [a - b for a, b in zip(full.scores, plan.scores, strict=True)]
