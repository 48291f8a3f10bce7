"""Cover the image: each pick is the attended token that is like most of what nothing picked is like yet.

SCOPE, arXiv 2510.24214. Compared with kinredon/SCOPE @ 6bf73069e0d61307051cfda8e25925bc7b7afdd9 (`SCOPE`): the same
picks in the same order on every stored case.

Coverage of a token is its best cosine to a picked one, from 0 up; a pick's gain is what it adds over all tokens,
times its attention to the power alpha, or plus it.

Differences: the budget is the image's, where the release gives each tile the same part; the greedy is lazy, which
changes no pick; attention is the head mean where the release has the sum (the same picks with combine="multiply").
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.coverage import coverage
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Covering:
    """k tokens by greedy coverage and [CLS] attention.

    Args:
        alpha: the power of the attention.
        combine: whether attention is to "multiply" the gain or to "add" to it.
    """

    alpha: float = 1.0
    combine: Literal["multiply", "add"] = "multiply"

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "cls_attn_BN"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise PlanError(f"alpha is {self.alpha}; the power of the attention is 0 or more")
        if self.combine not in ("multiply", "add"):
            raise PlanError(f'combine is {self.combine!r}; it must be "multiply" or "add"')

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND")
        value_BN = view.need("cls_attn_BN").float() ** self.alpha
        if self.combine == "multiply":
            order_BK = coverage(hidden_BND, k, value_BN=value_BN)
        else:
            order_BK = coverage(hidden_BND, k, bonus_BN=value_BN)
        return Selection.of(order_BK, hidden_BND.shape[1])


@checked
def scope(keep: float | int, alpha: float = 1.0, combine: Literal["multiply", "add"] = "multiply") -> Plan:
    """SCOPE: greedy coverage of the image, weighted by [CLS] attention, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        alpha: the power of the attention; 0 leaves it out.
        combine: "multiply" gain and attention, the paper's rule, or "add" them.
    """
    return Plan((Cut("input", Covering(alpha, combine), keep),))
