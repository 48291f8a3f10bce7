"""Share the tokens among an image's tiles by the thumbnail's early attention; each tile keeps its most attended.

HiRED, arXiv 2408.10945. Compared with hasanar1f/HiRED @ 502d6dd79a03e87cc808cedba8b8a951d93cb62b
(`HiRED_token_selection`, `HiRED_sub_img_budgets`): with as_released=True the same tokens on every stored case.

The thumbnail keeps `alpha` of the k, its most attended tokens. Its most attended 1 - alpha of all cells in the tower's
FIRST layer are marks; each tile gets its share of the rest by the marks that lie in it, and keeps its most attended.

Differences:

- The release counts a tile's marks in a horizontal band of the flattened thumbnail, not in the part that the tile
  shows, cuts shares down to whole numbers and to the tile's size, and so keeps 1 to 3 tokens fewer than asked:
  as_released=True. Here marks are counted where the tile is, and what is left over goes to other tiles.
- Tiles are read off the grid: equal parts of the tiled block, as many as the thumbnail's size goes into it. Newlines
  belong to the tile before them. An image without a thumbnail keeps its most attended tokens.
"""

from dataclasses import dataclass

import torch

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods.tiles import shown, tiles_of
from foveate.ops.shares import shared_out
from foveate.ops.topk import check_k, head_mask, ranked
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class ByTiles:
    """A thumbnail's most attended tokens, and each tile's, by share.

    Args:
        alpha: the thumbnail's share of the tokens, and the share of its cells that are no marks.
        as_released: bands for tiles, and rounding that loses tokens.
    """

    alpha: float = 0.5
    as_released: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise PlanError(f"alpha is {self.alpha}; it must lie between 0 and 1")

    @property
    def reads(self) -> frozenset[str]:
        """Attention of two tower layers, and where tiles are."""
        return frozenset({"cls_attn_BN", "first_attn_BN", "grid"})

    @property
    def adaptive(self) -> bool:
        """As released, a few are lost."""
        return self.as_released

    def __call__(self, view: TokenView, k: int) -> Selection:
        """k tokens."""
        attn_BN, first_BN = view.need("cls_attn_BN").float(), view.need("first_attn_BN").float()
        b, n = attn_BN.shape
        check_k(k, n)
        blocks = view.blocks()
        covered = sum(x.size for x in blocks)
        regular = view.grid is not None and isinstance(view.grid[0], int)
        if regular or len(blocks) < 2 or covered < n or k == 1:
            return Selection.top(attn_BN, k)
        thumb, tile_N, tiles = tiles_of(blocks, attn_BN.device)
        size = thumb.size
        mine = min(int(self.alpha * k), size) if self.as_released else max(int(self.alpha * k), k - (n - size))
        mine = min(mine, size)
        mark_BS = head_mask(first_BN[:, :size], torch.full((b,), int(size * (1 - self.alpha)), device=attn_BN.device))
        region_S = shown(thumb, blocks, tiles, attn_BN.device, bands=self.as_released)
        share_BT = torch.zeros(b, tiles, device=attn_BN.device).index_add_(1, region_S, mark_BS.float())
        room_T = torch.bincount(tile_N, minlength=tiles)
        if self.as_released:
            exact_BT = share_BT / share_BT.sum(1, keepdim=True).clamp(min=1) * (k - mine)
            quota_BT = torch.minimum(exact_BT.long(), room_T)
        else:
            quota_BT = shared_out(share_BT, k - mine, room_T)
        keep_BN = head_mask(attn_BN[:, :size], torch.full((b,), mine, device=attn_BN.device))
        rest_BN = torch.zeros(b, n - size, dtype=torch.bool, device=attn_BN.device)
        for t in range(tiles):
            here_M = (tile_N == t).nonzero()[:, 0]
            rest_BN[:, here_M] = ranked(attn_BN[:, size + here_M]).argsort(1) < quota_BT[:, t : t + 1]
        return Selection(torch.cat((keep_BN, rest_BN), 1))


@checked
def hired(keep: float | int, alpha: float = 0.5, as_released: bool = False) -> Plan:
    """HiRED: [CLS] top-k tile by tile, tiles sharing by the thumbnail's early attention, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens of an image, all tiles together.
        alpha: the thumbnail's share of them.
        as_released: count marks in bands and lose tokens to rounding, as the released code does.
    """
    return Plan((Cut("input", ByTiles(alpha, as_released), keep),))
