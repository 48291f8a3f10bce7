"""Span the image as GOTS does, each token's part outside the span weighted by how near it is to a word of the question.

ResPrune, arXiv 2603.21105. No code was released; the kernel is the one that GOTS's stored cases test, and the method
itself is compared with the formulas written out.

The weight is (max(0, cosine to the nearest word) + 1e-6)^alpha, and the first pick is given: the token that [CLS]
attends to most, or the longest one.

Our readings: the paper takes the words from a parser's nouns, after cutting a benchmark's format instructions out of
the prompt. Here every word of the question counts, which their ablation prices at about one point with the cleaning.
1e-6, which is not published.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.residual import residual
from foveate.ops.start import fill
from foveate.ops.wording import nearest_word
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked

_EPS = 1e-6


@dataclass(frozen=True)
class SpanningWords:
    """k tokens by pivoted orthogonalisation, weighted by the question's words.

    Args:
        alpha: the power of relevance; 0 is none.
        seed: the first pick: the most attended by "cls", or the longest ("norm").
    """

    alpha: float = 0.75
    seed: Literal["cls", "norm"] = "cls"

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.seed not in ("cls", "norm"):
            raise PlanError(f'seed is {self.seed!r}; it must be "cls" or "norm"')
        if self.alpha < 0:
            raise PlanError(f"alpha is {self.alpha}; the power of relevance is at least 0")

    @property
    def reads(self) -> frozenset[str]:
        """Projected tokens and words; [CLS] attention for its seed."""
        return frozenset({"hidden_BND", "text_BTD"} | ({"cls_attn_BN"} if self.seed == "cls" else set()))

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND")
        near_BN = nearest_word(hidden_BND, view.need("text_BTD"))
        weight_BN = (near_BN.clamp(min=0) + _EPS) ** self.alpha
        first_BN = view.need("cls_attn_BN") if self.seed == "cls" else hidden_BND.float().norm(dim=-1)
        order_BK = residual(hidden_BND, k, weight_BN, first_BN.argmax(1, keepdim=True))
        return Selection.of(fill(order_BK, weight_BN), hidden_BND.shape[1])


@checked
def resprune(keep: float | int, alpha: float = 0.75, seed: Literal["cls", "norm"] = "cls") -> Plan:
    """ResPrune: the tokens that span the image, weighted by the question's words, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        alpha: the power of relevance; the paper has 0.75 for LLaVA and 0.3 for Qwen2.5-VL.
        seed: the first pick: "cls", the most attended, as for LLaVA, or "norm", the longest, as for Qwen2.5-VL.
    """
    return Plan((Cut("input", SpanningWords(alpha, seed), keep),))
