"""One look, no greedy: how much of the image a token carries alone, times its saliency, less what a better one is like.

SFPruner, arXiv 2607.23046. No code was released and its constants are in a supplement we lack; compared with the
formulas written out.

With z the unit rows of the tokens, leverage is z_i (Z^T Z + lambda I)^-1 z_i^T; saliency is the min-max of alpha *
softmax(tau * relevance) + (1 - alpha) * [CLS] attention. Their product is suppressed once by the likeness to the best
token that outranks it (`peaks`), and the top k stay. What it costs does not depend on k.

Our readings: alpha 0.5, tau 100, lambda a hundredth of the mean eigenvalue. Relevance is that of the image-text space
with its plain sign; without a text tower it is the attention alone, as the authors have it for Qwen.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods.idle import refuse_idle
from foveate.ops.cosine import check_finite, unit
from foveate.ops.scale import minmax
from foveate.ops.suppress import peaks
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Leverage:
    """The k tokens of highest suppressed leverage times saliency.

    Args:
        alpha: weight of relevance in saliency, where there is a text tower.
        ridge: lambda, as a share of the mean eigenvalue.
        tau: inverse temperature of relevance.
        text_tower: of the image-text space; None leaves relevance out.
    """

    alpha: float = 0.5
    ridge: float = 0.01
    tau: float = 100.0
    text_tower: str | None = None

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or not self.ridge > 0:
            raise PlanError(f"alpha is {self.alpha} and ridge {self.ridge}; a weight from 0 to 1, and a share above 0")

    @property
    def reads(self) -> frozenset[str]:
        """Tokens and attention, relevance where there is a text tower."""
        more = {"relevance_BN"} if self.text_tower is not None else set()
        return frozenset({"hidden_BND", "cls_attn_BN"} | more)

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND")
        saliency_BN = view.need("cls_attn_BN").float()
        if self.text_tower is not None:
            asked_BN = (self.tau * view.need("relevance_BN").float()).softmax(1)
            saliency_BN = self.alpha * asked_BN + (1 - self.alpha) * saliency_BN
        check_finite(saliency_BN, "attention weights")
        score_BN = leverage(hidden_BND, self.ridge) * minmax(saliency_BN)
        return Selection.top(peaks(hidden_BND, score_BN), k)


def leverage(x_BND: Tensor, ridge: float) -> Tensor:
    """Ridge leverage [B, N] of the unit rows, float64: by the smaller of the two Gram matrices."""
    z_BND = unit(x_BND).double()
    n, d = z_BND.shape[1:]
    with torch.autocast(z_BND.device.type, enabled=False):
        gram = z_BND.mT @ z_BND if d <= n else z_BND @ z_BND.mT
        # The unit rows' squared lengths, all 1, are the sum of the eigenvalues.
        lam_B11 = ridge * z_BND.square().sum((1, 2)).clamp(min=1e-12)[:, None, None] / gram.shape[-1]
        full = gram + lam_B11 * torch.eye(gram.shape[-1], dtype=torch.float64, device=z_BND.device)
        if d <= n:
            return (torch.linalg.solve(full, z_BND.mT).mT * z_BND).sum(-1)
        return torch.linalg.solve(full, gram).diagonal(dim1=1, dim2=2)


@checked
def sfpruner(
    keep: float | int, alpha: float = 0.5, ridge: float = 0.01, tau: float = 100.0, text_tower: str | None = None
) -> Plan:
    """SFPruner: leverage times saliency, suppressed once, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        alpha: weight of relevance against attention, where there is a text tower.
        ridge: lambda, as a share of the mean eigenvalue.
        tau: inverse temperature of relevance.
        text_tower: folder or hub id of the CLIP or SigLIP checkpoint of the model's vision tower; None goes by
            attention alone.

    Raises:
        PlanError: a keep or a setting out of range, or one of relevance without a text tower.
    """
    if text_tower is None:
        refuse_idle(sfpruner, locals(), ("alpha", "tau"), "text_tower=None", "a text_tower")
    return Plan((Cut("input", Leverage(alpha, ridge, tau, text_tower), keep),))
