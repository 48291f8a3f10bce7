"""ToMe where its paper has it: in every layer of the tower, between attention and MLP.

arXiv 2210.09461, sections 3 and 4: by the layer's keys, mean over heads; r pairs a layer; [CLS] merges with nobody;
merged tokens are means weighted by size, and attention adds log(size) to the logits of their keys. The pairs are those
of `tome.py`, whose rounds equal the released code's.

Differences:

- r follows from how many are to be left at the feature layer, as even as can be, no layer merging more than half.
- What is left goes into the LLM at the places of the odd members, as in `tome.py`, each once.
- Between layers tokens stay in image order. The release puts the odd ones behind the unmerged even ones:
  as_released=True.
- The paper's towers name one class; behind this one every token is read by an LLM (docs/methods/choosing.md).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.errors import PlanError
from foveate.ops.bipartite import matched
from foveate.selection import Between, Selection, TokenView


@dataclass(frozen=True)
class MergedInside:
    """Tokens merged by bipartite soft matching, between the tower's layers.

    Args:
        proportional: attention counts a merged token as often as tokens were merged into it.
        as_released: between layers tokens are in the order of the released code, not in that of the image.
    """

    proportional: bool = True
    as_released: bool = False

    # Of what a TokenView holds, nothing: the keys it goes by are those of layers that have not ended.
    reads: ClassVar[frozenset[str]] = frozenset()
    adaptive: ClassVar[bool] = False

    @property
    def between(self) -> Between:
        """It works between the tower's layers."""
        return self

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Never: behind the tower there is nothing left to choose.

        Raises:
            PlanError: always.
        """
        raise PlanError(
            f"{type(self).__name__} merges tokens between the layers of a vision tower, and can be called, wrapped or "
            "served nowhere else (only sized(...) goes around it); to merge behind the tower: tome(keep)"
        )

    def left(self, n: int, k: int, layers: int) -> list[int]:
        """How many of n tokens each layer leaves, as evenly as halving allows; the last leaves k.

        Raises:
            PlanError: more than halving in every layer.
        """
        if n > k << layers:
            raise PlanError(
                f"{k} of {n} tokens cannot be reached by merging half of them in each of {layers} layers; keep at "
                f"least {-(-n >> layers)}, or merge behind the tower"
            )
        counts = []
        for after in range(layers - 1, -1, -1):
            n = min(n + (k - n) // (after + 1), k << after)
            counts.append(n)
        return counts

    def pairs(self, keys_BSC: Tensor, apart: int, r: int) -> tuple[Tensor, Tensor, Tensor]:
        """Places that go [B, r], those they go into [B, r], and those that stay, in order [B, S - r]."""
        even_BE, odd_BE = matched(keys_BSC, apart)
        stay_BE = even_BE[:, r:]
        odds = torch.arange(1, keys_BSC.shape[1], 2, device=keys_BSC.device).expand(len(keys_BSC), -1)
        # The release sorts where there is a [CLS], so that it comes first.
        stay_BE = stay_BE.sort(1).values if apart else stay_BE
        order_BM = torch.cat((stay_BE, odds), 1)
        return even_BE[:, :r], odd_BE[:, :r], order_BM if self.as_released else order_BM.sort(1).values
