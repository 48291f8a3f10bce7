"""Keep a set that is likely under a determinantal point process: different tokens, each to the question.

CDPruner, arXiv 2506.10967. Compared with Theia-4869/CDPruner @ 9541616c40fcd5625de1cdb8ea6c33c129eb7864
(`encode_images`): the same tokens on every stored case, but for one whose authors' rule mixes a batch.

The kernel is diag(r) L diag(r) with L the cosines of the projected tokens and r their relevance; its greedy MAP is a
pivoted orthogonalisation of the unit rows scaled by r, which needs no N x N matrix.

Relevance is the negated similarity in the image-text space, min-max to [0, 1] with 1e-6 above the line; without a text
tower it is the cosine to the question's nearest word, not negated (see `asked`): the authors name none for such models.

Differences: minimum and maximum are each image's own, where the release takes them over the whole batch (stored case
q1). Where the rank ends, the release goes on by NaN; here the most relevant tokens left fill up.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods import asked
from foveate.ops.cosine import unit
from foveate.ops.residual import residual
from foveate.ops.scale import minmax
from foveate.ops.start import fill
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Determinantal:
    """k tokens by greedy MAP inference of a conditional determinantal point process.

    Args:
        theta: in (0, 1), how much relevance counts: r becomes exp(theta / (2 (1 - theta)) r). None leaves r as it is.
        text_tower: of the image-text space; None reads word embeddings.
    """

    theta: float | None = None
    text_tower: str | None = None

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.theta is not None and not 0 < self.theta < 1:
            raise PlanError(f"theta is {self.theta}; it must lie between 0 and 1, or be None")

    @property
    def reads(self) -> frozenset[str]:
        """Projected tokens, and what relevance needs."""
        return asked.signals(self.text_tower) | {"hidden_BND"}

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND")
        relevance_BN = minmax(asked.relevance(view, self.text_tower, -1), above=1e-6)
        if self.theta is not None:
            relevance_BN = (relevance_BN * (self.theta / (2 * (1 - self.theta)))).clamp(max=math.log(1e12)).exp()
        rows_BND = unit(hidden_BND) * relevance_BN[:, :, None]
        return Selection.of(fill(residual(rows_BND, k), relevance_BN), hidden_BND.shape[1])


@checked
def cdpruner(keep: float | int, theta: float | None = None, text_tower: str | None = None) -> Plan:
    """CDPruner: a conditional determinantal point process, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        theta: in (0, 1), how much relevance counts against variety; None is the paper's plain product.
        text_tower: folder or hub id of the CLIP or SigLIP checkpoint of the model's vision tower; None compares with
            the LLM's word embeddings.
    """
    return Plan((Cut("input", Determinantal(theta, text_tower), keep),))
