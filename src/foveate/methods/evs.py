"""Of a video, keep the first frame, and later what differs from the same place one frame before.

EVS (efficient video sampling), arXiv 2510.14624. No vectors of a released version are stored; compared with the rule
written out.

A token's score is 1 - its cosine to the same place in the frame before. The first frame stays whole as long as k
allows, the highest scores of the rest fill up.

Differences: every frame keeps its `least` most changed tokens, where the rule as released leaves some short clips with
nothing but their first frame. Of a first frame larger than what remains for it, tokens stay that are spread evenly; so
does an image, which is one frame.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.ops.cosine import unit
from foveate.ops.topk import check_k, ranked
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Changing:
    """The first frame, and what changes after it.

    Args:
        least: every later frame keeps as many, if k allows one for each at all.
    """

    least: int = 1

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "grid"})
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 0:
            raise PlanError(f"least is {self.least!r}; a frame keeps a whole number of tokens, at least 0")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        x_BND = unit(view.need("hidden_BND"))
        b, n = x_BND.shape[:2]
        check_k(k, n)
        frames = frame_count(view)
        x_BFSD = x_BND.unflatten(1, (frames, -1))
        size = x_BFSD.shape[2]
        change_BFS = 1 - (x_BFSD[:, 1:] * x_BFSD[:, :-1]).sum(-1)
        # Golden steps are even at every length, so smaller choices lie inside larger ones.
        spread_S = ((torch.arange(size, device=x_BND.device, dtype=torch.float64) + 1) * _GOLDEN) % 1
        first_B1S = (3 + spread_S).expand(b, 1, -1)
        floor_BFS = ranked(change_BFS).argsort(-1) < min(self.least, (k - 1) // max(1, frames - 1))
        score_BN = torch.cat((first_B1S, change_BFS.double() + 5 * floor_BFS), 1).flatten(1)
        return Selection.top(score_BN, k)


def frame_count(view: TokenView) -> int:
    """How many equal frames the tokens are; 1 for anything that is no video."""
    grid = view.grid
    regular = grid is not None and len(grid) == 3 and isinstance(grid[0], int)
    frames: int = grid[0] if regular else 1  # type: ignore[index, assignment]
    view.blocks()
    return frames if view.shape[1] % frames == 0 else 1


@checked
def evs(keep: float | int, least: int = 1) -> Plan:
    """EVS: a video's first frame and its changes, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        least: every later frame keeps as many.
    """
    return Plan((Cut("input", Changing(least), keep),))
