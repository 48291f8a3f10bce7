"""Keep a few pivots, and what is least like each of them: duplication counts, not importance.

DART, arXiv 2502.11494. Compared with xqy1111111/DART @ d6a5af6f24f9d0c2f3f3a8eb09b8ca7cef58b58a, a copy of the authors'
repository (`get_retained_image_token`): the same tokens on every stored case where pivots are visited in index order.

Pivots are the tokens whose keys have the largest L1 norm, some of the image's and some of the text behind it. Each
pivot in turn takes, of the image tokens left, its share of those with the LOWEST cosine to it.

Differences:

- The release visits pivots in the order of a Python set, which is arbitrary; here it is by index.
- Norms are those of keys before rotation, which changes them with the position, and so with the padding of a batch.
- The release compares states under the model's last norm; here they are as they are.
- Its count comes out as image pivots + pivots * (k // pivots); here exactly k stay, image pivots among them, and the
  first pivots take what does not divide.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.ops.topk import check_k, ranked
from foveate.ops.wording import word_cosines
from foveate.plan import Plan
from foveate.selection import Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Unlike:
    """Pivots, and the tokens least like each.

    Args:
        image: how many pivots are the image's.
        text: how many are the text's.
    """

    image: int = 4
    text: int = 4

    # Pivots are visited by index: the order of tokens matters, which `grid` says.
    reads: ClassVar[frozenset[str]] = frozenset(
        {"hidden_BND", "key_norm_BN", "text_hidden_BTD", "text_norm_BT", "grid"}
    )
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.image < 1 or self.text < 0:
            raise PlanError(f"pivots are {self.image} of the image and {self.text} of the text; at least 1, at least 0")

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        hidden_BND, norm_BN = view.need("hidden_BND"), view.need("key_norm_BN")
        check_k(k, norm_BN.shape[1])
        own_BP = ranked(norm_BN)[:, : min(self.image, k)].sort(1).values
        text_BP = ranked(view.need("text_norm_BT"))[:, : self.text].sort(1).values
        pivot_BPD = torch.cat((_rows(hidden_BND, own_BP), _rows(view.need("text_hidden_BTD"), text_BP)), 1)
        like_BPN = word_cosines(hidden_BND, pivot_BPD)
        keep_BN = torch.zeros_like(norm_BN, dtype=torch.bool).scatter_(1, own_BP, True)
        left, pivots = k - own_BP.shape[1], like_BPN.shape[1]
        for p in range(pivots):
            take = left // pivots + (p < left % pivots)
            far_BN = like_BPN[:, p].neg().masked_fill(keep_BN, -torch.inf)
            keep_BN = keep_BN.scatter(1, ranked(far_BN)[:, :take], True)
        return Selection(keep_BN)


def _rows(x_BND: Tensor, index_BP: Tensor) -> Tensor:
    return x_BND.gather(1, index_BP[:, :, None].expand(-1, -1, x_BND.shape[2]))


@checked
def dart(keep: float | int, layer: int | None = None, image: int = 4, text: int = 4) -> Plan:
    """DART: the tokens least like a few pivots, inside the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens that stay from `layer` on; the layers before it see all.
        layer: the cut comes before this decoder layer, counted from 0; by default 2, or the last layer of a model that
            has no layer 2.
        image: how many pivots are the image's.
        text: how many are the text's.

    Raises:
        PlanError: layer 0, before which no layer has keys.
    """
    check_keep(keep)
    if layer == 0:
        raise PlanError("layer is 0, but DART reads the keys of the layer before; the first possible is 1")
    return Plan((Cut(2 if layer is None else layer, Unlike(image, text), keep, or_last=layer is None),))
