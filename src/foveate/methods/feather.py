"""Rank by attention without rotary positions, which favour the bottom of the image, and keep a coarse grid at first.

FEATHER, arXiv 2412.13180. The released scripts give layers 8 and 16 of 32, 0.7 dropped and a stride of 3; the code was
not run, so there are no authors' indices to compare with.

The first cut keeps every third row's every third token, and fills up by the last prompt token's attention, computed
from queries and keys before rotation; the second goes by that attention alone.

Our readings: `keep` is the mean over the layers and the ratio of both cuts follows; where the layers before the paper's
first cut alone would exceed it, both cuts move to the front. Keys of earlier turns of a chat are rotated and left out.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.methods.fastv import TextAttention
from foveate.ops.budget import solve_ratio, spans
from foveate.ops.topk import ranked
from foveate.plan import Plan
from foveate.selection import Attention, Selection, TokenView
from foveate.typed import checked

_UNROTATED = Attention("last", "previous", rotary=False)
_DEPTH = 32


@dataclass(frozen=True)
class GridAndAttention:
    """A strided grid, filled up by attention; of a grid larger than k, its most attended tokens.

    Args:
        stride: rows and columns from one token of the grid to the next.
        attention: whose attention ranks.
    """

    stride: int = 3
    attention: Attention = _UNROTATED

    reads: ClassVar[frozenset[str]] = frozenset({"text_attn_BN", "grid"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.stride, bool) or not isinstance(self.stride, int) or self.stride < 1:
            raise PlanError(f"stride is {self.stride!r}; it must be a whole number, at least 1")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        attn_BN = view.need("text_attn_BN")
        # By place in the order, so that no scale has to be chosen.
        place_BN = ranked(attn_BN).argsort(1)
        return Selection.top(-(place_BN - attn_BN.shape[1] * self._grid(view).long()), k)

    def _grid(self, view: TokenView) -> Tensor:
        on_N = torch.zeros(view.shape[1], dtype=torch.bool, device=view.device)
        for block in view.blocks():
            row_R1 = torch.arange(self.stride // 2, block.rows, self.stride, device=view.device)[:, None]
            column_C = torch.arange(self.stride // 2, block.columns, self.stride, device=view.device)
            on_N[(block.start + row_R1 * block.row_stride + column_C).flatten()] = True
        return on_N


@checked
def feather(keep: float | int, stride: int = 3, layers: tuple[int, int] | None = None) -> Plan:
    """FEATHER: attention without rotary positions and a coarse grid, at two layers inside the LLM.

    Args:
        keep: a fraction (float) is the mean over all layers of the share that stays; a number (int) is how many stay
            after the second cut, 3.3 times as many after the first.
        stride: rows and columns from one token of the grid to the next.
        layers: the two layers before which tokens go, of 32; other depths scale them. By default 8 and 16.
    """
    check_keep(keep)
    if isinstance(keep, float):
        default = tuple(max(1, min(8 * i, int(_DEPTH * keep * i / 2))) for i in (1, 2))
        places = layers or (default[0], max(default[0] + 1, default[1]))
        share = 1.0 if keep == 1 else solve_ratio(keep, spans(places, _DEPTH))
        keeps: tuple[float | int, float | int] = (share, share**2)
    else:
        places, keeps = layers or (8, 16), (int(keep / 0.3 + 0.5), keep)
    cuts = (Cut(places[0], GridAndAttention(stride), keeps[0]), Cut(places[1], TextAttention(_UNROTATED), keeps[1]))
    return Plan(cuts).relative(_DEPTH, keep if isinstance(keep, float) else None)
