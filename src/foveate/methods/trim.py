"""Keep the tokens that the image-text space calls LEAST like the question, and one token for the mean of the rest.

TRIM, arXiv 2409.10994. Compared with FreedomIntelligence/TRIM @ f5a232d51eb6279354d9a5c07f0bb5539fec2fd0
(`token_reduction`): the same tokens and rows on every stored case, but for one whose authors' rule mixes a batch.

The score is a softmax of the negated similarity: single patches of CLIP are inverted against text. Without a text
tower it is the cosine to the question's nearest word, not negated (see `asked`).

Differences:

- The similarity in the joint space is a cosine (`relevance_BN`); the release takes the product of vectors whose lengths
  differ. Both orders agree where patches have about one length.
- "outliers" counts each image's own quartiles; the release takes them over the whole batch (stored case q2).
- The token for the rest is one of the k, at the place of the best dropped one; the release appends it.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods import asked
from foveate.ops.merging import alone, averaged
from foveate.ops.topk import check_k, head_mask, outliers
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Answering:
    """The tokens that answer to the question, and the mean of the others.

    Args:
        count: "fixed", always k; "outliers", as many as stand out, at most k.
        rest: one of the k holds the mean of what was dropped.
        text_tower: of the image-text space; None reads word embeddings.
    """

    count: Literal["fixed", "outliers"] = "fixed"
    rest: bool = True
    text_tower: str | None = None

    def __post_init__(self) -> None:
        if self.count not in ("fixed", "outliers"):
            raise PlanError(f'count is {self.count!r}; it must be "fixed" or "outliers"')

    @property
    def reads(self) -> frozenset[str]:
        """The image-text space, or the question's words."""
        return asked.signals(self.text_tower)

    @property
    def adaptive(self) -> bool:
        """Outliers are as many as there are."""
        return self.count == "outliers"

    def __call__(self, view: TokenView, k: int) -> Selection:
        """k tokens, with `mix_BKN` where one holds the rest."""
        score_BN = asked.relevance(view, self.text_tower, -1)
        b, n = score_BN.shape
        check_k(k, n)
        if k == n:
            return Selection.everything(score_BN)
        share_BN = score_BN.softmax(1)
        rest = self.rest and k > 1
        counts_B = torch.full((b,), k - rest, device=score_BN.device)
        if self.adaptive:
            counts_B = torch.minimum(counts_B, outliers(share_BN).clamp(min=1))
        keep_BN = head_mask(score_BN, counts_B)
        if not rest:
            return Selection(keep_BN, alone(keep_BN, k) if self.rest else None)
        best_B1 = score_BN.masked_fill(keep_BN, -torch.inf).argmax(1, keepdim=True)
        own_N = torch.arange(n, device=score_BN.device)
        home_BN = torch.where(keep_BN, own_N, best_B1)
        keep_BN = keep_BN.scatter(1, best_B1, True)
        return Selection(keep_BN, averaged(keep_BN, home_BN))


@checked
def trim(
    keep: float | int,
    count: Literal["fixed", "outliers"] = "fixed",
    rest: bool = True,
    text_tower: str | None = None,
) -> Plan:
    """TRIM: top-k by similarity to the question, and one token for the rest, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens, the one for the rest included.
        count: "fixed", always keep; "outliers", as many as stand out by the quartile rule, up to keep.
        rest: one token holds the mean of what was dropped.
        text_tower: folder or hub id of the CLIP or SigLIP checkpoint of the model's vision tower; None compares with
            the LLM's word embeddings.
    """
    return Plan((Cut("input", Answering(count, rest, text_tower), keep),))
