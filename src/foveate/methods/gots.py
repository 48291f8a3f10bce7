"""Keep the tokens that span the most: each pick is the one whose part outside the span of those before it is longest.

GOTS, arXiv 2607.23913. Compared with newLLing/GOTS @ 7e09f2285fafc5a11db90eb2e194fb6b3bd2e47b
(`gots_faster_kernel_impl`): the same picks in the same order on every stored case, as far as the rank goes.

Rows are not normalised: by the paper's ablation their lengths carry most of the information.

Differences: the paper stops where nothing is left outside the span, the release goes on by rounding noise (stored case
q1: 24 of rank 16). Here the rank ends the search too, and the longest rows left fill up.
Features are those of the tower's feature layer, or with by="hidden" the states at the cut.
"""

from dataclasses import dataclass
from typing import Literal

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.residual import residual
from foveate.ops.start import fill
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Spanning:
    """k tokens by pivoted orthogonalisation.

    Args:
        by: the rows that span: "encoder" features, or "hidden" states at the cut.
    """

    by: Literal["encoder", "hidden"] = "encoder"

    def __post_init__(self) -> None:
        if self.by not in ("encoder", "hidden"):
            raise PlanError(f'by is {self.by!r}; it must be "encoder" or "hidden"')

    @property
    def reads(self) -> frozenset[str]:
        """The rows that span."""
        return frozenset({"encoder_BNC" if self.by == "encoder" else "hidden_BND"})

    @property
    def adaptive(self) -> bool:
        """Always k."""
        return False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        x_BND = view.need("encoder_BNC" if self.by == "encoder" else "hidden_BND")
        order_BK = fill(residual(x_BND, k), x_BND.float().square().sum(-1))
        return Selection.of(order_BK, x_BND.shape[1])


@checked
def gots(keep: float | int, by: Literal["encoder", "hidden"] = "encoder") -> Plan:
    """GOTS: the tokens that span the image's features, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        by: the rows that span: "encoder", the tower's features, as published, or "hidden", the projected tokens.
    """
    return Plan((Cut("input", Spanning(by), keep),))
