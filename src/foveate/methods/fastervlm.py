"""Keep the tokens that the vision encoder's [CLS] token attends to most.

FasterVLM, arXiv 2412.01818. Compared with Theia-4869/FasterVLM @ f5d5f12037e105a51865ecb4b28a73cd86eb4921
(`encode_images`): head-mean attention of the feature layer, top k, in index order. Same indices on every stored case.

Differences: ties go to the lower index, where the released code leaves them to the device; a tower without [CLS]
gives the attention each token receives (see the family).
"""

from dataclasses import dataclass
from typing import ClassVar

from foveate.cut import Cut
from foveate.plan import Plan
from foveate.selection import Selection, TokenView


@dataclass(frozen=True)
class ClsAttention:
    """The k tokens with the highest [CLS] attention."""

    reads: ClassVar[frozenset[str]] = frozenset({"cls_attn_BN"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        return Selection.top(view.need("cls_attn_BN"), k)


def fastervlm(keep: float | int) -> Plan:
    """FasterVLM: [CLS] top-k, before the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
    """
    return Plan((Cut("input", ClsAttention(), keep),))
