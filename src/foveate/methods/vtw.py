"""From some layer on, no layer sees the image: what it had to say has gone over into the text.

VTW (visual tokens withdrawal), arXiv 2405.05803.

The paper withdraws all visual tokens before layer K: half of the depth for LLaVA-1.5, otherwise the smallest K at which
the mean Kullback-Leibler divergence of the last logits, with and without, stays under a threshold on some twenty
examples: `foveate.search.withdrawal`, whose answer `layer` takes.

Which tokens go is no question, so nobody is asked: the selector in the plan never runs.
"""

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.methods.uniform import Uniform
from foveate.plan import Plan
from foveate.typed import checked


@checked
def vtw(keep: float | None = None, layer: int | None = None) -> Plan:
    """VTW: all visual tokens up to a layer, none from there on.

    Args:
        keep: the mean over the layers of the share that stays, which is the fraction of the depth at which the tokens
            go; 0.5 is the paper's default. Of a number of tokens nothing follows for the layer.
        layer: the decoder layer before which they go, counted from 0, in the place of keep.

    Raises:
        PlanError: neither keep nor layer, both, or a number of tokens.
    """
    if (keep is None) == (layer is None):
        raise PlanError("vtw needs keep, the fraction of the depth that sees the image, or layer; give one of them")
    if keep is None:
        return Plan((Cut(0 if layer is None else layer, Uniform(), 0),))
    check_keep(keep)
    if not isinstance(keep, float):
        raise PlanError(f"keep is {keep}; vtw keeps all tokens or none: give the mean over the layers, e.g. keep=0.5")
    if keep == 1:
        return Plan((Cut(0.5, Uniform(), 1.0),))
    return Plan((Cut(keep, Uniform(), 0),))
