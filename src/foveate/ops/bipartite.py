"""Bipartite soft matching: tokens at even and odd places, and for each even one the odd one that it is most like.

The kernel of ToMe (arXiv 2210.09461). A round of it merges some even tokens, the most alike first, into their odd ones.
"""

import torch
from torch import Tensor

from foveate.ops.cosine import product, unit
from foveate.ops.topk import ranked


def matched(metric_BMC: Tensor, apart: int = 0) -> tuple[Tensor, Tensor]:
    """The even places, those most like an odd one first, and the odd places they are most like: [B, E] each.

    Args:
        metric_BMC: by whose cosine tokens are alike.
        apart: so many at the front match nobody, and nobody matches them; of equally like ones the lower place wins.
    """
    x_BMC = unit(metric_BMC)
    like_BEO = product(x_BMC[:, ::2], x_BMC[:, 1::2].mT)
    if apart:
        like_BEO[:, : (apart + 1) // 2] = -torch.inf
        like_BEO[:, :, : apart // 2] = -torch.inf
    best_BE, odd_BE = like_BEO.max(-1)
    even_BE = ranked(best_BE)
    return 2 * even_BE, 2 * odd_BE.gather(1, even_BE) + 1
