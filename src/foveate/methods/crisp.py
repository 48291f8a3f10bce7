"""Give each word of the question its tokens, as many as [CLS] finds them worth, then spread out from them.

CRISP, arXiv 2607.16326. No code was released; compared with the formulas written out.

Of k tokens a core of alpha k (0.3, and 0.5 below 100) goes to the words: each word takes its nearest core / words
tokens, is worth the [CLS] attention of those, and keeps its share of the core by worth. Farthest points from the core
fill up to k. Where words outnumber the core, it goes to [CLS] attention.

Our readings: the paper's words are a parser's nouns; here every word of the question counts, so the core is often
[CLS] attention's in long questions: words=N takes the N words that are nearest to any token.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.farthest import farthest
from foveate.ops.topk import check_k, head_mask, ranked
from foveate.ops.wording import word_cosines
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class WordsFirst:
    """A core by the question's words, and farthest points from it.

    Args:
        alpha: the core's share of k; None is 0.3, or 0.5 below 100 tokens.
        words: how many words count, those that are nearest to any token; None is all.
    """

    alpha: float | None = None
    words: int | None = None

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "text_BTD", "cls_attn_BN"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise PlanError(f"alpha is {self.alpha}; the core is a share of the tokens, from 0 to 1")
        if self.words is not None and self.words < 1:
            raise PlanError(f"words is {self.words}; at least one word counts, or None for all")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND, attn_BN = view.need("hidden_BND"), view.need("cls_attn_BN").float()
        n = hidden_BND.shape[1]
        check_k(k, n)
        core = max(1, int(k * (self.alpha if self.alpha is not None else 0.3 if k >= 100 else 0.5)))
        core_BN = self._core(word_cosines(hidden_BND, view.need("text_BTD")), attn_BN, core)
        counts_B = core_BN.sum(1)
        most = int(counts_B.max())
        first_BS = ranked(core_BN.float())[:, :most]
        outside_BS = torch.arange(most, device=attn_BN.device) >= counts_B[:, None]
        return Selection.of(farthest(hidden_BND, k, start_BS=first_BS.masked_fill(outside_BS, -1)), n)

    def _core(self, near_BTN: Tensor, attn_BN: Tensor, core: int) -> Tensor:
        """[B, N], at most `core` an image and at least one."""
        if self.words is not None and self.words < near_BTN.shape[1]:
            pick_BT = ranked(near_BTN.amax(-1))[:, : self.words]
            near_BTN = near_BTN.gather(1, pick_BT[:, :, None].expand(-1, -1, near_BTN.shape[2]))
        t = near_BTN.shape[1]
        counts_B = torch.full((len(attn_BN),), core, device=attn_BN.device)
        by_attention_BN = head_mask(attn_BN, counts_B)
        if not t or core < t:
            return by_attention_BN
        order_BTM = ranked(near_BTN)[..., : core // t]
        worth_BT = attn_BN[:, None].expand_as(near_BTN).gather(2, order_BTM).sum(-1)
        share_BT = worth_BT / worth_BT.sum(1, keepdim=True).clamp(min=1e-30)
        quota_BT1 = (share_BT * core).floor()[:, :, None]
        taken_BTN = ranked(near_BTN).argsort(-1) < quota_BT1
        core_BN = taken_BTN.any(1)
        alone_BN = head_mask(attn_BN, torch.ones_like(counts_B))
        return torch.where(core_BN.any(1, keepdim=True), core_BN, alone_BN)


@checked
def crisp(keep: float | int, alpha: float | None = None, words: int | None = None) -> Plan:
    """CRISP: tokens for the question's words, then farthest points from them, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        alpha: the share that goes to the words; None is 0.3, or 0.5 below 100 tokens.
        words: how many words count, those nearest to any token; None is all.
    """
    return Plan((Cut("input", WordsFirst(alpha, words), keep),))
