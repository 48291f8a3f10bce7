"""Keep the outliers of [CLS] attention, as many as an image has, and merge into each what its key is like.

LLaVA-PruMerge, arXiv 2403.15388. Compared with 42Shawn/LLaVA-PruMerge @ 097c04116a58465e4bcb58cec44a94018a68ff1a
(`token_prune_merge_advanced` and `..._plus`): the same tokens and rows on every stored case, but for two whose authors'
rule mixes a batch (below).

Each kept token becomes itself plus the sum of a_j x_j over the `neighbours` other tokens of nearest key, kept ones too;
one token more holds the sum of a_j x_j of all that were dropped. The weights a are the [CLS] attention and, as in the
paper's formula and the code, not normalised. PruMerge+ adds evenly spaced tokens to the outliers.

Differences: counts and quartiles are each image's own; the release takes them over the batch (stored case q4). `keep`
caps the count, the extra token included, which takes the place of the most attended dropped one; the release has it
last. The release reads the last tower layer with heads joined; here it is the family's [CLS] signal. Its plus fails
without outliers, above a third of the tokens and off 576; here the step is at least 1 and runs over what there is.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.cosine import check_finite
from foveate.ops.merging import with_likes
from foveate.ops.topk import check_k, head_mask, outliers, ranked
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class PruMerge:
    """Outliers of [CLS] attention with their likes merged in, and one token for the rest.

    Args:
        count: "outliers", at most k; "fixed", always k.
        plus: evenly spaced tokens too.
        neighbours: how many tokens are merged into each kept one.
    """

    count: Literal["outliers", "fixed"] = "outliers"
    plus: bool = False
    neighbours: int = 32

    # The evenly spaced tokens of plus go by the order of tokens: `grid` says so.
    reads: ClassVar[frozenset[str]] = frozenset({"cls_attn_BN", "keys_BNC", "grid"})

    @property
    def adaptive(self) -> bool:
        """Outliers are as many as there are."""
        return self.count == "outliers"

    def __post_init__(self) -> None:
        if self.count not in ("outliers", "fixed"):
            raise PlanError(f'count is {self.count!r}; it must be "outliers" or "fixed"')
        if isinstance(self.neighbours, bool) or not isinstance(self.neighbours, int) or self.neighbours < 1:
            raise PlanError(f"neighbours is {self.neighbours!r}; it must be a whole number of tokens, at least 1")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """At most k tokens, with `mix_BKN`."""
        attn_BN, keys_BNC = view.need("cls_attn_BN").float(), view.need("keys_BNC")
        n = attn_BN.shape[1]
        check_k(k, n)
        if k == n:
            return Selection.everything(attn_BN)
        check_finite(attn_BN, "attention weights")
        # One of the k is the token for the rest; of a single one nothing is left over for it.
        most = max(1, k - 1)
        found_B = outliers(attn_BN).clamp(min=1, max=most)
        if self.plus:
            chosen_BN = self._spread(attn_BN, found_B, most)
        elif self.adaptive:
            chosen_BN = head_mask(attn_BN, found_B)
        else:
            chosen_BN = head_mask(attn_BN, torch.full_like(found_B, most))
        extra_B1 = attn_BN.masked_fill(chosen_BN, -torch.inf).argmax(1, keepdim=True) if k > 1 else None
        return Selection(*with_likes(attn_BN, keys_BNC, chosen_BN, extra_B1, self.neighbours))

    def _spread(self, attn_BN: Tensor, found_B: Tensor, most: int) -> Tensor:
        """The outliers and, in steps, tokens between them; those that exceed the count go from the end."""
        n = attn_BN.shape[1]
        place_N = torch.arange(n, device=attn_BN.device)
        step_B1 = (n // found_B // 3).clamp(min=1)[:, None]
        extra_BN = (place_N % step_B1 == 0) & (place_N < max(1, n - 1))
        # Outliers first, then the steps in order, then the rest by attention: the head of that order is the answer.
        order_BN = ranked(attn_BN).argsort(1)
        outlier_BN = order_BN < found_B[:, None]
        rank_BN = torch.where(outlier_BN, order_BN, torch.where(extra_BN, n + place_N, 2 * n + order_BN))
        counts_B = (outlier_BN | extra_BN).sum(1).clamp(max=most) if self.adaptive else torch.full_like(found_B, most)
        return head_mask(-rank_BN, counts_B)


@checked
def prumerge(
    keep: float | int,
    count: Literal["outliers", "fixed"] = "outliers",
    plus: bool = False,
    neighbours: int = 32,
    at: Literal["encoder", "input"] = "encoder",
) -> Plan:
    """PruMerge, and with plus=True PruMerge+: outliers of [CLS] attention, the rest merged, before the projector.

    Args:
        keep: the most that may stay, a fraction (float) or a number (int), the token for the rest included.
        count: "outliers", as many as the image has above the quartile rule, up to keep; "fixed", always keep.
        plus: evenly spaced tokens too, three times as many as there are outliers.
        neighbours: how many tokens are merged into each kept one.
        at: "encoder", as published, or "input", for models that resample their features after the projector.
    """
    return Plan((Cut(at, PruMerge(count, plus, neighbours), keep),))
