"""After an early LLM layer, keep the tokens that the prompt attends to most.

FastV, arXiv 2403.06764. Compared with pkunlp-icler/FastV @ d1659729b5bf1be225e99ee15783deeea80f63b1
(`fastv_forward`): the head-mean attention of the layer before the cut, top k, positions left as they were. Same
indices on every stored case.

Paper and code disagree on whose attention: the paper speaks of what a token receives on average from all others, the
code reads the row of the last prompt token. `scoring` says which; the code's is the default because the published
numbers come from it. For the paper's, Foveate averages over the tokens that can see the token at all: a plain column
mean would favour early tokens, which more rows can see.

Differences: counts round half up (the release: half to even); every image of a batch is pruned by its own attention
(the release: by the first one's).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.plan import Plan
from foveate.selection import Attention, Selection, TokenView
from foveate.typed import checked

LAST = Attention("last", "previous")


@dataclass(frozen=True)
class TextAttention:
    """The k tokens with the highest attention from the LLM's rater tokens."""

    attention: Attention = LAST

    reads: ClassVar[frozenset[str]] = frozenset({"text_attn_BN"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        return Selection.top(view.need("text_attn_BN"), k)


@checked
def fastv(keep: float | int, layer: int | None = None, scoring: Literal["code", "paper"] = "code") -> Plan:
    """FastV: attention top-k, inside the LLM.

    Args:
        keep: a fraction (float) or a number (int) of tokens that stay from `layer` on, the paper's 1 - R. The layers
            before it see all tokens, so the budget (mean over layers) is larger: with depth L, (layer + keep * (L -
            layer)) / L.
        layer: the cut comes before this decoder layer, counted from 0; the paper's K. By default 2, or the last
            layer of a model that has no layer 2.
        scoring: "code": the last prompt token's attention; "paper": attention received from all prompt tokens.

    Raises:
        PlanError: layer below 1, which has no attention before it, or an unknown scoring.
    """
    keep = check_keep(keep)
    or_last = layer is None
    layer = 2 if layer is None else layer
    if layer < 1:
        raise PlanError(f"layer is {layer}, but FastV reads the attention of the layer before; the first possible is 1")
    attention = Attention("last" if scoring == "code" else "received", "previous")
    return Plan((Cut(layer, TextAttention(attention), keep, or_last=or_last),))
