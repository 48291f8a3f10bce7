"""Share the tokens out over strips of the image by how much each has to say, then take each strip's most attended.

HoloV, NeurIPS 2025 (arXiv 2510.02912). Compared with obananas/HoloV @ 1d2e65e961e698ff0e7d5bb4625489177dd9deba
(`HoloV`, LLaVA and Qwen copies): the same tokens on every stored case where the release returns as many as asked.

A strip is a run of consecutive tokens. A token's score is 1000 a + beta * v * mean(1000 a) / mean(v), with a its
attention and v the variance of its similarities inside the strip, the diagonal taken as 0; the strip's score is the
mean. Inside a strip the choice is plain attention, as released.

Differences: a strip that is given more than it holds passes the rest on to the others, where the release fills up with
zero vectors (stored case q1: 9 of 64); a strip of one token is scored on the same scale as the others; the number of
strips never exceeds that of tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.cosine import unit
from foveate.ops.host import upload
from foveate.ops.shares import shared_out
from foveate.ops.topk import check_k, ranked
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked

_SCALE = 1000.0
_BETA = 0.09


@dataclass(frozen=True)
class Strips:
    """Each strip's most attended tokens, as many as its share.

    Args:
        strips: how many runs the tokens are split into.
        beta: weight of the variance of similarities.
    """

    strips: int = 16
    beta: float = _BETA

    # A strip is a run of tokens: their order matters, which `grid` says.
    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "cls_attn_BN", "grid"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.strips, bool) or not isinstance(self.strips, int) or self.strips < 1:
            raise PlanError(f"strips is {self.strips!r}; it must be a whole number, at least 1")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        attn_BN, x_BND = view.need("cls_attn_BN").float(), unit(view.need("hidden_BND"))
        n = attn_BN.shape[1]
        check_k(k, n)
        p = min(self.strips, n)
        # The first n mod p strips hold one more.
        sizes = [n // p + (i < n % p) for i in range(p)]
        score_BP = torch.stack(
            [self._score(x, a) for x, a in zip(x_BND.split(sizes, 1), attn_BN.split(sizes, 1), strict=True)], 1
        )
        quota_BP = shared_out(score_BP, k, upload(torch.tensor(sizes), attn_BN.device))
        parts = [
            ranked(attn).argsort(1) < quota_B1
            for attn, quota_B1 in zip(attn_BN.split(sizes, 1), quota_BP.split(1, 1), strict=True)
        ]
        return Selection(torch.cat(parts, 1))

    def _score(self, x_BSD: Tensor, attn_BS: Tensor) -> Tensor:
        size = x_BSD.shape[1]
        attn_BS = attn_BS * _SCALE
        if size == 1:
            return attn_BS[:, 0]
        with torch.autocast(x_BSD.device.type, enabled=False):
            like_BSS = x_BSD @ x_BSD.mT
        like_BSS.diagonal(dim1=1, dim2=2).zero_()
        # The variance in two passes: torch's own takes three times as long.
        spread_BS = (like_BSS - like_BSS.mean(-1, keepdim=True)).square_().sum(-1) / (size - 1)
        scale_B1 = attn_BS.abs().mean(1, keepdim=True) / spread_BS.abs().mean(1, keepdim=True).clamp(min=1e-12)
        return (attn_BS + self.beta * spread_BS * scale_B1).mean(1)


@checked
def holov(keep: float | int, strips: int = 16, beta: float = _BETA) -> Plan:
    """HoloV: attention inside strips that share the tokens by attention and variety, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        strips: how many runs of tokens share them.
        beta: weight of the variance of similarities in a strip's share.
    """
    return Plan((Cut("input", Strips(strips, beta), keep),))
