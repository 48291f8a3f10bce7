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
"""

from dataclasses import dataclass
from typing import ClassVar

from foveate.cut import Cut
from foveate.ops.farthest import farthest
from foveate.plan import Plan
from foveate.selection import Selection, TokenView


@dataclass(frozen=True)
class Farthest:
    """k tokens by greedy farthest points in cosine distance."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND")
        return Selection.of(farthest(hidden_BND, k), hidden_BND.shape[1])


def divprune(keep: float | int) -> Plan:
    """DivPrune: max-min diversity, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
    """
    return Plan((Cut("input", Farthest(), keep),))
