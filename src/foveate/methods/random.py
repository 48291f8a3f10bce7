"""A random subset of the tokens: the baseline that every method must beat.

Ours; there is no paper. The subset depends on the seed and on the number of tokens alone, never on the place in a
batch: an image gives the same answer alone and in company. It is therefore drawn by index, and permuting tokens does
not permute the answer; `reads` names the grid to say so. Smaller subsets lie inside larger ones.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from foveate.cut import Cut
from foveate.ops.host import upload
from foveate.ops.topk import check_k
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Random:
    """k tokens by lot, the same ones for the same (seed, N)."""

    seed: int = 0

    # hidden_BND for the number of tokens only.
    reads: ClassVar[frozenset[str]] = frozenset({"grid", "hidden_BND"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        b, n = view.shape
        check_k(k, n)
        # On the CPU, because generators of other devices give other numbers.
        order_N = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))
        return Selection.of(upload(order_N[:k], view.device).expand(b, k), n)


@checked
def random(keep: float | int, seed: int = 0) -> Plan:
    """Keep a random subset of the visual tokens, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        seed: another one gives another subset.
    """
    return Plan((Cut("input", Random(seed), keep),))
