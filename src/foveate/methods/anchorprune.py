"""Anchor the tokens that answer to the question, as far as they say something new, then spread out from them.

AnchorPrune, arXiv 2607.07033. Compared with MULTI-cau/AnchorPrune @ 9aa27743ef6ff2eaabc19f3ff705f1943607741f
(`anchorprune_select`): the same anchors and tokens on every stored case.

Tokens are ranked by relevance. The first `least` are anchored; the walk goes on down the ranking, counts the tokens
whose cosine distance to all of those first ones exceeds tau, and stops at the `patience`-th of them, or at half of k.
From the anchors on, farthest points weighted by [CLS] attention, distances capped at 1, fill up to k.

Relevance is the negated similarity in the image-text space; without a text tower it is the cosine to the nearest word,
not negated, as the authors have it for Qwen.

Differences: distances to the anchors are those of the projected tokens; the release's LLaVA path has the image-text
space's. The paper gives `least` for some k only (5, 10, 20 of 32, 64, 128): here it is that share.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods import asked
from foveate.ops.cosine import Cosine
from foveate.ops.farthest import farthest
from foveate.ops.topk import check_k, ranked
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Anchored:
    """Relevant anchors, and farthest points from them.

    Args:
        least: anchored without a look: a share of k (float) or a number (int).
        tau: the cosine distance from which on a token says something new.
        patience: how many such tokens end the walk.
        most: the largest share of k that is anchored.
        by: what farthest points are measured on.
        text_tower: of the image-text space; None reads word embeddings.
    """

    least: float | int = 10 / 64
    tau: float = 0.2
    patience: int = 3
    most: float = 0.5
    by: Literal["encoder", "hidden"] = "encoder"
    text_tower: str | None = None

    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.by not in ("encoder", "hidden"):
            raise PlanError(f'by is {self.by!r}; it must be "encoder" or "hidden"')
        if not self.least >= 0:
            raise PlanError(f"least is {self.least}; it is a share or a number of tokens, 0 or more")
        if self.patience < 1:
            raise PlanError(f"patience is {self.patience}; the walk ends at the first new token at the earliest")

    @property
    def reads(self) -> frozenset[str]:
        """Relevance, attention, and what distances are measured on."""
        more = {"hidden_BND", "cls_attn_BN"} | ({"encoder_BNC"} if self.by == "encoder" else set())
        return asked.signals(self.text_tower) | more

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND = view.need("hidden_BND")
        n = hidden_BND.shape[1]
        check_k(k, n)
        order_BN = ranked(asked.relevance(view, self.text_tower, -1))
        length_B = self._walk(Cosine(hidden_BND, matrix=False), order_BN, k)
        most = int(length_B.max())
        head_BS = torch.arange(most, device=order_BN.device) < length_B[:, None]
        start_BS = order_BN[:, :most].masked_fill(~head_BS, -1)
        spread_BND = view.need("encoder_BNC") if self.by == "encoder" else hidden_BND
        weight_BN = view.need("cls_attn_BN").clamp(min=0)
        return Selection.of(farthest(spread_BND, k, weight_BN, start_BS, cap=1.0), n)

    def _walk(self, cosine: Cosine, order_BN: Tensor, k: int) -> Tensor:
        """How many of the ranking are anchored: [B]."""
        asked = self.least if isinstance(self.least, int) else int(self.least * k + 0.5)
        least = max(1, min(asked, k))
        most = max(least, int(self.most * k))
        near_BN = torch.full(order_BN.shape, -1.0, device=order_BN.device)
        for rows_BMN in (cosine.rows(part) for part in order_BN[:, :least].split(64, 1)):
            near_BN = torch.maximum(near_BN, rows_BMN.amax(1))
        new_BW = (1 - near_BN.gather(1, order_BN[:, least:most])) > self.tau
        # The place of the last one, which is anchored too; without so many the walk goes to its end.
        before_B = (new_BW.cumsum(1) < self.patience).sum(1)
        return (least + before_B + 1).clamp(max=most)


@checked
def anchorprune(
    keep: float | int, least: float | int = 10 / 64, tau: float = 0.2, patience: int = 3,
    by: Literal["encoder", "hidden"] = "encoder", text_tower: str | None = None,
) -> Plan:  # fmt: skip
    """AnchorPrune: tokens that answer to the question, then farthest points from them, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        least: as in `Anchored`, like tau and patience.
        tau: see there.
        patience: see there.
        by: farthest points go by the tower's features, as for LLaVA, or "hidden", projected tokens, as for Qwen.
        text_tower: folder or hub id of the CLIP or SigLIP checkpoint of the vision tower; None reads word embeddings.
    """
    return Plan((Cut("input", Anchored(least, tau, patience, by=by, text_tower=text_tower), keep),))
