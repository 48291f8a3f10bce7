"""A token that stands for many weighs as many: log(size) on the logits of its key, in every layer and while decoding.

    plan = sized(merged(divprune(keep=64)))      # size: how many tokens were merged into each
    plan = sized(restored(divprune(keep=64)), distance=True)   # RESTORE whole: groups, places, weights, distances

RESTORE, arXiv 2606.01711 (ToMe's proportional attention, arXiv 2210.09461, is the same term inside a tower). k equal
tokens at one place, merged, are then seen as all k were. Sizes add up over cuts, go with the cache into decoding and
later turns, and are read off the weights by which a selector mixes: each token counts once, by its shares of weight.

RESTORE multiplies the size by 2 - D besides, D being the mean cosine by which rotation turns a key away at that
distance; between words too, and at the prefill only. That is `distance`, from the layer behind the first merging cut
on; on models with several axes of positions D is weighted by their shares of the dimensions.

Difference: the release gives all tokens of an image N/K in the first layer; here they have their own size there too.

Cost: attention gets a mask of floats. So PyTorch's SDPA takes another kernel than without a mask, with M x M entries of
memory for M tokens, and decoding runs with hooks on the layers; FlashAttention, which adds nothing, is refused.
"""

from dataclasses import dataclass
from typing import ClassVar

from foveate.errors import PlanError
from foveate.methods.wrapper import Wrapper, each_cut
from foveate.plan import Plan
from foveate.selection import Between, Selection, TokenView
from foveate.typed import checked


@dataclass(frozen=True)
class Sized(Wrapper):
    """As the selector inside; the engine adds log(size) to attention.

    Args:
        select: which stay, and what is merged into them.
        distance: log(size * (2 - D)) at the prefill.
    """

    distance: bool = False

    sized: ClassVar[bool] = True

    @property
    def between(self) -> Between | None:
        """Tokens merged inside the tower have sizes too."""
        return getattr(self.select, "between", None)

    def __call__(self, view: TokenView, k: int) -> Selection:
        """As the selector inside, which has to merge.

        Raises:
            PlanError: it has dropped tokens and merged none.
        """
        answer = self.select(view, k)
        if answer.mix_BKN is None and (k < view.shape[1] or not bool(answer.keep_BN.all())):
            raise PlanError(
                f"{type(self.select).__name__} merges no tokens, so each stands for itself; wrap it first: "
                "sized(merged(...)) or sized(restored(...))"
            )
        return answer


@checked
def sized(plan: Plan, distance: bool = False) -> Plan:
    """The plan with attention that knows how many tokens each merged one stands for. Hugging Face engine only.

    Args:
        plan: any whose selectors merge, over images.
        distance: RESTORE's other term: far tokens are given back what rotation takes from them, at the prefill.
    """
    return each_cut(plan, lambda cut: Sized(cut.select, distance))
