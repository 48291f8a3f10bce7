"""A schedule: how many tokens each decoder layer sees, as cuts where the number falls.

Ours, and no method of its own: `psigmoid` and the searches of `foveate.search` make their plans here.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.methods.divprune import Farthest
from foveate.methods.fastervlm import ClsAttention
from foveate.methods.fastv import TextAttention
from foveate.plan import Plan, Positions
from foveate.selection import Attention, Selector
from foveate.typed import checked

First = Literal["full", "own", "cls", "spread"]


@checked
def layerwise(
    keeps: Sequence[float] | Sequence[int],
    raters: Literal["last", "text", "dynamic", "received"] = "last",
    attention: Literal["previous", "own"] = "previous",
    first: First = "full",
    positions: Positions | None = None,
) -> Plan:
    """A plan from what each decoder layer is to see.

    Args:
        keeps: one for each layer, never growing, all fractions or all numbers; 0 is none.
        raters: whose attention ranks the tokens inside the LLM, as in `Attention`.
        attention: "previous": of the layer before the cut; "own": of the layer behind it.
        first: what may fall before the first layer, where attention does not know the question yet. "full": nothing;
            "own": by that layer's own attention all the same; "cls": by attention from the tower's [CLS]; "spread":
            so that the rest covers the image (DivPrune's choice).
        positions: as in `Plan`.

    Raises:
        PlanError: keeps grow, are out of range, or cut the first layer although it is to see everything.
    """
    for i, (a, b) in enumerate(pairwise(keeps), 1):
        if b > a:
            raise PlanError(f"keep grows from {a} at layer {i - 1} to {b} at layer {i}; dropped tokens cannot return")
    inside = TextAttention(Attention(raters, attention))
    cuts: list[Cut] = []
    if first == "full":
        if not keeps or (isinstance(keeps[0], float) and keeps[0] < 1):
            raise PlanError(f'the first layer keeps {keeps[0] if keeps else "nothing"}, but first="full" cuts nothing')
    elif first == "own":
        cuts = [Cut(0, TextAttention(Attention(raters, "own")), keeps[0])]
    else:
        choice: Selector = ClsAttention() if first == "cls" else Farthest()
        cuts = [Cut("input", choice, keeps[0])]
    cuts += [Cut(i, inside, b) for i, (a, b) in enumerate(pairwise(keeps), 1) if b < a]
    if not cuts and len(keeps) > 1:
        # So that a plan that drops nothing still says so in a report.
        cuts = [Cut(1, inside, keeps[1])]
    return Plan(tuple(cuts), positions)
