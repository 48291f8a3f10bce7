"""Keep the tokens that are least alike: maximise the smallest distance between any two kept ones.

DivPrune, arXiv 2503.02175. Compared with vbdi/divprune @ 799e2d950aa01ba7860907f5a6d86061f885dca6 (`DivPrune`): greedy
farthest points in cosine distance of the projected tokens. Same picks in the same order on every stored case without
ties.

Differences:

- A running minimum of O(N) a step over one similarity matrix, and no matrix above 8192 tokens.
- Two tokens that are each other's nearest can tie for the first pick. There rounding decides in the release; here the
  one less like the whole image goes first, so the answer does not depend on the order of the tokens.
- Picked tokens are out. The release returns token 0 again and again once all distinct tokens are taken; this returns k
  different ones (stored case q1: 16 pairs of copies).
- Counts round half up; the release rounds half to even.
- Not in the paper: `distance` stops at the first token that is nearer than it to a kept one, so a busy image keeps more
  than an empty one. Every dropped token is then nearer than `distance` to a kept one (Gonzalez 1985). AgilePruner
  (arXiv 2603.01236) also lets a distance set the count, but visits tokens by attention, and its distance grows.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.farthest import farthest, gaps
from foveate.plan import Plan
from foveate.selection import Knob, Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Farthest:
    """k tokens by greedy farthest points in cosine distance."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND")
        return Selection.of(farthest(hidden_BND, k), hidden_BND.shape[1])


@dataclass(frozen=True)
class Apart:
    """Farthest points until the next one is nearer than a distance to one that is kept; at most k.

    Args:
        distance: cosine distance, 0 to 2; larger keeps fewer.
    """

    distance: float

    reads: ClassVar[frozenset[str]] = Farthest.reads
    adaptive: ClassVar[bool] = True
    knob: ClassVar[Knob] = Knob("distance", 0.0, 2.0, rising=False)

    def __post_init__(self) -> None:
        if not 0 <= self.distance <= 2:
            raise PlanError(f"distance is {self.distance}; cosine distances lie between 0 and 2")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """The first of the farthest points, one at least."""
        hidden_BND = view.need("hidden_BND")
        order_BK = farthest(hidden_BND, k)
        far_BK = gaps(hidden_BND, order_BK) >= self.distance
        out_BN = torch.zeros(hidden_BND.shape[:2], dtype=torch.bool, device=hidden_BND.device)
        return Selection(out_BN.scatter_(1, order_BK, far_BK))


@checked
def divprune(keep: float | int, distance: float | None = None) -> Plan:
    """DivPrune: max-min diversity, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens; with a distance, the most of them.
        distance: stop where the next token is nearer than this to a kept one, in cosine distance, so that each image
            keeps what it needs; `foveate.search.calibrate` finds the distance of a mean budget. None: exactly `keep`.

    Raises:
        PlanError: a keep or a distance out of range.
    """
    return Plan((Cut("input", Farthest() if distance is None else Apart(distance), keep),))
