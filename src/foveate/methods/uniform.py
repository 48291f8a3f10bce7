"""Evenly spaced tokens in raster order: the baseline that knows nothing but that an image is spread out.

Ours; there is no paper. Token number floor((j + 1/2) N / k) for j = 0 .. k - 1: centred, so that neither the first
row nor the last is favoured. Spacing runs over the sequence as the LLM receives it: newline tokens count, frames and
tiles follow one another.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from foveate.cut import Cut
from foveate.ops.topk import check_k
from foveate.plan import Plan
from foveate.selection import Selection, TokenView


@dataclass(frozen=True)
class Uniform:
    """k tokens at equal steps."""

    # The order of tokens is all it goes by: `grid` says that permuting them matters. hidden_BND for their number only.
    reads: ClassVar[frozenset[str]] = frozenset({"grid", "hidden_BND"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        b, n = view.shape
        check_k(k, n)
        index_K = (2 * torch.arange(k, device=view.device) + 1) * n // (2 * k)
        return Selection.of(index_K.expand(b, k), n)


def uniform(keep: float | int) -> Plan:
    """Keep evenly spaced visual tokens, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
    """
    return Plan((Cut("input", Uniform(), keep),))
