"""Half of the tokens by [CLS] attention, the other half by throwing out duplicates round by round.

VisPruner, arXiv 2412.01818 v2 (Beyond Text-Visual Attention). Compared with Theia-4869/VisPruner
@ aefa01adc7c7ce6334e880c88225e90cede760d1 (`encode_images`): the same tokens on every stored case.

The pool of all but the important tokens starts in order of falling attention. Each round pairs its even places with its
odd ones, drops the `step` evens most like any odd, and goes on with the evens left, most alike first, then the odds.

Differences: the release fails where the pool's size is odd, and where a round would drop more than its evens; here the
odd one out counts as even, and a round drops what it can. Likeness is looked up in each token's nearest few, and in the
whole row where none of them is among the odds: exact, and no product a round.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.cosine import Cosine
from foveate.ops.topk import check_k, ranked
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked

_NEAR = 64


@dataclass(frozen=True)
class Deduplicated:
    """Important tokens by attention, and diverse ones by pruning duplicates.

    Args:
        important: the share of k that goes by attention.
        step: tokens dropped a round.
    """

    important: float = 0.5
    step: int = 8

    reads: ClassVar[frozenset[str]] = frozenset({"cls_attn_BN", "encoder_BNC"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.important <= 1:
            raise PlanError(f"important is {self.important}; it is a share of the kept tokens, from 0 to 1")
        if isinstance(self.step, bool) or not isinstance(self.step, int) or self.step < 1:
            raise PlanError(f"step is {self.step!r}; each round drops a whole number of tokens, at least 1")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        attn_BN = view.need("cls_attn_BN")
        n = attn_BN.shape[1]
        check_k(k, n)
        order_BN = ranked(attn_BN)
        first = int(k * self.important)
        pool_BP = order_BN[:, first:]
        if first < k < n:
            pool_BP = self._diverse(Cosine(view.need("encoder_BNC")), pool_BP, k - first)
        return Selection.of(torch.cat((order_BN[:, :first], pool_BP[:, : k - first]), 1), n)

    def _diverse(self, cosine: Cosine, pool_BP: Tensor, left: int) -> Tensor:
        near_BNM, like_BNM = _nearest(cosine)
        while pool_BP.shape[1] > left:
            even_BE, odd_BO = pool_BP[:, ::2], pool_BP[:, 1::2]
            if not odd_BO.shape[1]:
                break
            best_BE = _best(cosine, near_BNM, like_BNM, even_BE, odd_BO)
            drop = min(self.step, pool_BP.shape[1] - left, even_BE.shape[1])
            rest = ranked(best_BE)[:, drop:]
            pool_BP = torch.cat((even_BE.gather(1, rest), odd_BO), 1)
        return pool_BP


def _nearest(cosine: Cosine) -> tuple[Tensor, Tensor]:
    """Each token's most similar few, itself among them: indices and cosines [B, N, M], falling."""
    m = min(_NEAR, cosine.shape[1])
    parts = [cosine.rows(index_BM).topk(m) for index_BM in cosine.chunks()]
    return torch.cat([p.indices for p in parts], 1), torch.cat([p.values for p in parts], 1)


def _best(cosine: Cosine, near_BNM: Tensor, like_BNM: Tensor, even_BE: Tensor, odd_BO: Tensor) -> Tensor:
    """The highest cosine of each even token to any odd one: [B, E]."""
    b, n, m = near_BNM.shape
    isodd_BN = torch.zeros(b, n, dtype=torch.bool, device=even_BE.device).scatter_(1, odd_BO, True)
    pick_BEM = even_BE[:, :, None].expand(-1, -1, m)
    hit_BEM = isodd_BN.gather(1, near_BNM.gather(1, pick_BEM).flatten(1)).view(b, -1, m)
    # The first hit is the best: they fall.
    best_BE = like_BNM.gather(1, pick_BEM).gather(2, hit_BEM.float().argmax(2, keepdim=True))[..., 0]
    image_R, at_R = (~hit_BEM.any(2)).nonzero().unbind(1)
    if len(image_R):
        rows_RN = cosine.ragged(image_R, even_BE[image_R, at_R])
        best_BE = best_BE.index_put((image_R, at_R), rows_RN.masked_fill(~isodd_BN[image_R], -torch.inf).amax(1))
    return best_BE


@checked
def vispruner(keep: float | int, important: float = 0.5, step: int = 8) -> Plan:
    """VisPruner: [CLS] attention and pruned duplicates, half and half, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        important: the share of them that goes by attention.
        step: duplicates dropped a round.
    """
    return Plan((Cut("input", Deduplicated(important, step), keep),))
