"""Keep what the question raises above what the image alone would get: attention against its own prior.

PriorTR, arXiv 2606.24156. Compared with CodeChildCZJ/PriorTR @ e442a4c14af1b333067a6b8310c9111cad922033
(`PriorTRStrategy`): the same tokens on every stored case.

P is the attention that the question gives the image's tokens in one layer, Q that of the first token behind the image,
which has seen it but not yet the question; both sum to 1, and the score is P log(P / Q).

Differences: the release averages all rows from that first token on for P, its Qwen copy all but the last; here it is
the question's own tokens, or with raters="last" the last one. Scores stay in float32, where the release rounds them to
the attention's type. It can also keep whatever scores above a threshold; here k stay. A prompt whose question stands
before the image has no prior: its attention is used as it is.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.ops.prior import against_prior
from foveate.plan import Plan
from foveate.selection import Attention, Selection, TokenView
from foveate.typed import checked

_EPS = 1e-10
QUESTION = Attention("text", "own")


@dataclass(frozen=True)
class AgainstPrior:
    """The k tokens whose attention exceeds their prior most.

    Args:
        attention: whose attention ranks, and of which layer.
        eps: added to both under the logarithm; the paper has 1e-6, the released code 1e-10.
    """

    attention: Attention = QUESTION
    eps: float = _EPS

    reads: ClassVar[frozenset[str]] = frozenset({"text_attn_BN", "prior_attn_BN"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise PlanError(f"eps is {self.eps}; under a logarithm it must be above 0")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        return Selection.top(against_prior(view.need("text_attn_BN"), view.need("prior_attn_BN"), self.eps), k)


@checked
def priortr(
    keep: float | int, layer: int | None = None, raters: Literal["text", "last"] = "text", eps: float = _EPS
) -> Plan:
    """PriorTR: attention against its prior, inside the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens that stay from `layer` on; the layers before it see all.
        layer: the cut comes before this decoder layer, whose attention it reads; by default 2, or the last layer of a
            model that has no layer 2.
        raters: "text", the mean over the question's tokens, or "last", the last prompt token.
        eps: added under the logarithm.

    Raises:
        PlanError: raters that the paper does not have.
    """
    check_keep(keep)
    select = AgainstPrior(Attention(raters, "own"), eps)
    return Plan((Cut(2 if layer is None else layer, select, keep, or_last=layer is None),))
