"""Keep what [CLS] attends to most, and fold the rest into a few evenly spaced tokens by the likeness of their keys.

VisionZip, arXiv 2412.04467 (training-free). Compared with dvlab-research/VisionZip
@ 3151f6df4fca36a4cd1c985e5956e725b1f9ad02 (`CLIPVisionTower_VisionZip.forward`): the same dominant tokens, targets and
assignment on every stored case, and with as_released=True the same merged rows.

Differences:

- The release emits the [CLS] state as one more row and counts it. Here all k are visual tokens: 64 of the paper are 63.
- A contextual row of the release is target + mean of what joins it, a sum of twice a token's length. The paper speaks
  of an average: the default is the mean of the target and all that joins it.
- Rows stay in image order, each contextual one at its target's place; the release puts them last.
- Of 64 the paper takes 10 contextual ones (54 + 10, 108 + 20, 162 + 30): `contextual` is that share of any k.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.cosine import Cosine
from foveate.ops.merging import alone, averaged, mixture
from foveate.ops.topk import check_k, head_mask
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Zipped:
    """Dominant tokens by [CLS] attention, contextual ones that hold what is left.

    Args:
        contextual: how many of the k are contextual: a share (float) or a number (int) below k.
        as_released: a contextual row is target + mean of the joined, not the mean of all.
    """

    contextual: float | int = 10 / 64
    as_released: bool = False

    # `grid` says that the order of tokens matters: targets are evenly spaced.
    reads: ClassVar[frozenset[str]] = frozenset({"cls_attn_BN", "keys_BNC", "grid"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        share = isinstance(self.contextual, float) and 0 <= self.contextual < 1
        if not share and (isinstance(self.contextual, float | bool) or self.contextual < 0):
            raise PlanError(f"contextual is {self.contextual!r}; it must be a share below 1, or a number of tokens")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens, with `mix_BKN` where some are contextual."""
        attn_BN, keys_BNC = view.need("cls_attn_BN"), view.need("keys_BNC")
        b, n = attn_BN.shape
        check_k(k, n)
        if k == n:
            return Selection.everything(attn_BN)
        share = self.contextual
        m = min(share, k) if isinstance(share, int) else int(share * k + 0.5)
        counts_B = torch.full((b,), k - m, device=attn_BN.device)
        dominant_BN = head_mask(attn_BN, counts_B)
        if not m:
            # So few that no share of them is a whole token; where none was asked for, nothing merges at all.
            return Selection(dominant_BN, alone(dominant_BN, k) if share else None)
        # The open ones in order: there are as many in every image.
        rest_BR = dominant_BN.byte().sort(dim=1, stable=True).indices[:, : n - k + m]
        target_BM = rest_BR[:, torch.arange(m, device=rest_BR.device) * (rest_BR.shape[1] // m)]
        home_BN = self._homes(keys_BNC, dominant_BN, target_BM)
        keep_BN = dominant_BN.scatter(1, target_BM, True)
        if not self.as_released:
            return Selection(keep_BN, averaged(keep_BN, home_BN, most=k))
        own_BN = home_BN == torch.arange(n, device=home_BN.device)
        joined_BN = torch.zeros_like(attn_BN, dtype=torch.float32).scatter_add_(1, home_BN, (~own_BN).float())
        weight_BN = torch.where(own_BN, 1.0, 1 / joined_BN.gather(1, home_BN).clamp(min=1))
        return Selection(keep_BN, mixture(keep_BN, home_BN, weight_BN, k))

    @staticmethod
    def _homes(keys_BNC: Tensor, dominant_BN: Tensor, target_BM: Tensor) -> Tensor:
        # From the targets' side: a few rows, whatever the number of tokens.
        like_BMN = Cosine(keys_BNC).rows(target_BM)
        home_BN = target_BM.gather(1, like_BMN.argmax(1)).scatter(1, target_BM, target_BM)
        own_N = torch.arange(dominant_BN.shape[1], device=home_BN.device)
        return torch.where(dominant_BN, own_N, home_BN)


@checked
def visionzip(
    keep: float | int,
    contextual: float | int = 10 / 64,
    as_released: bool = False,
    at: Literal["encoder", "input"] = "encoder",
) -> Plan:
    """VisionZip: [CLS] top-k, and the rest merged into evenly spaced tokens, before the projector.

    Args:
        keep: a fraction (float) or a number (int) of tokens, contextual ones included.
        contextual: how many of them hold the merged rest: a share (float) or a number (int).
        as_released: merge as the released code does, target + mean, and not by the mean of all.
        at: "encoder", as published, or "input", for models that resample their features after the projector.
    """
    return Plan((Cut(at, Zipped(contextual, as_released), keep),))
