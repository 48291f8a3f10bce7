"""Average the tokens of each cell of a coarser grid: the baseline that throws nothing away, but blurs.

Ours; the plainest member of a family of poolers that models are trained with (e.g. LLaVA-OneVision's video frames),
here on a model that was not. Our choices:

- Pooling is by exact area: every token weighs the same in all, and one on a border is shared by its two cells.
- The grid is the one nearest to k and to the image's aspect, so it may hold fewer than k cells (`adaptive`).
- Blocks (tiles, thumbnail, frames) share k in proportion to their cells; equal blocks, so all frames of a video, get
  equal shares. With fewer tokens than blocks, evenly spaced blocks get one each.
- Newline tokens, and tokens outside every block, are dropped: they hold no picture, and each would cost a cell.
- Keeping all tokens keeps them as they are, newlines too.
- A cell takes the place, and the position, of the token at its centre.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from foveate.cut import Cut
from foveate.ops.host import upload
from foveate.ops.pooling import cell_centres, pool_weights, pooled_shape, shares
from foveate.ops.topk import check_k
from foveate.plan import Plan
from foveate.selection import Selection, TokenView


@dataclass(frozen=True)
class Pool:
    """At most k cells, each the mean of the tokens it covers."""

    reads: ClassVar[frozenset[str]] = frozenset({"grid", "hidden_BND"})
    adaptive: ClassVar[bool] = True

    def __call__(self, view: TokenView, k: int) -> Selection:
        """At most k tokens, with `mix_BKN`.

        Raises:
            SignalError: there is no grid, because an earlier cut dropped tokens.
        """
        b, n = view.shape
        check_k(k, n)
        device = view.device
        if k == n:
            return Selection(torch.ones(b, n, dtype=torch.bool, device=device))
        blocks = view.blocks()
        index, mix = [], []
        for block, share in zip(blocks, shares([x.rows * x.columns for x in blocks], k), strict=True):
            if not share:
                continue
            r, c = pooled_shape(block.rows, block.columns, share)
            place_RC = block.start + torch.arange(block.rows)[:, None] * block.row_stride + torch.arange(block.columns)
            index.append(place_RC[cell_centres(block.rows, r)][:, cell_centres(block.columns, c)].flatten())
            weight = torch.kron(pool_weights(block.rows, r), pool_weights(block.columns, c))
            mix.append(weight.new_zeros(r * c, n).index_copy_(1, place_RC.flatten(), weight))
        index_K, mix_KN = upload(torch.cat(index), device), upload(torch.cat(mix), device)
        # The same weights for all images: a view, not a copy for each.
        return Selection(Selection.of(index_K.expand(b, -1), n).keep_BN, mix_KN.expand(b, -1, -1))


def pool(keep: float | int) -> Plan:
    """Replace the visual tokens by the cells of a coarser grid, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens; the grid has at most as many cells.
    """
    return Plan((Cut("input", Pool(), keep),))
