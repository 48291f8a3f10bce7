"""One total for the images of a prompt, divided by how much each matters: AVTP's shares, around any selector.

    plan = apportioned(dart(keep=0.2))                    # by how far the layers so far have moved an image's tokens
    plan = apportioned(divprune(keep=0.2), by="words")    # by how near its tokens are to the question's words

AVTP, arXiv 2608.26806 (zry13/AVTP carries no licence and was not read). The importance I of an image is the mean over
its tokens of 1 - cos(state at the cut, state before it); it keeps a share r + alpha (I - mean I) of its tokens, r being
that of the whole prompt, within bounds. `Cut(per="prompt")` alone is alpha 0.

Differences:

- The state before is always the token as the LLM received it; the paper has the previous cut's, where there is one.
- Bounded shares do not sum to the budget; here they are weights by which the whole budget is given out, no image beyond
  what it has. The release takes an image's start token alone; here, as the paper says, its tokens.
- `words` is ours: it makes shares possible before the LLM, where nothing has moved yet. Nobody has measured it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from foveate.errors import PlanError
from foveate.methods.wrapper import Wrapper, each_cut
from foveate.ops.wording import nearest_word
from foveate.plan import Plan
from foveate.selection import TokenView
from foveate.typed import checked

_READS = {"change": {"hidden_BND", "input_BND"}, "words": {"hidden_BND", "text_BTD"}}


@dataclass(frozen=True)
class Apportioned(Wrapper):
    """As the selector inside, of counts that depend on what the images of a prompt are worth beside each other.

    Args:
        select: which tokens of an image stay.
        alpha: how far shares follow importance; 0 is not at all.
        low: the least share that an image is weighed by.
        high: the largest.
        by: "change" inside the LLM, "words" anywhere but at the encoder.
    """

    alpha: float = 1.0
    low: float = 0.05
    high: float = 0.95
    by: Literal["change", "words"] = "change"

    def __post_init__(self) -> None:
        if self.by not in _READS:
            raise PlanError(f'by is {self.by!r}; it must be "change" or "words"')
        if not self.alpha >= 0 or not 0 < self.low <= self.high <= 1:
            raise PlanError(
                f"alpha is {self.alpha}, low {self.low} and high {self.high}; alpha is 0 or more, the others are "
                "shares, low above 0 and not above high"
            )

    @property
    def reads(self) -> frozenset[str]:
        """What importance is measured on too."""
        return self.select.reads | self.weighs

    @property
    def weighs(self) -> frozenset[str]:
        """What importance is measured on."""
        return frozenset(_READS[self.by])

    def image_weights(self, views: Sequence[TokenView], keep: float) -> list[float]:
        """Which share of its tokens each image of a prompt should keep, before all is made to fit the total.

        Args:
            views: of one image each.
            keep: the share of the prompt's tokens that stays.
        """
        # Waited for once, where it is on a device.
        worth = torch.stack([self._worth(view) for view in views]).tolist()
        mean = sum(worth) / len(worth)
        return [min(self.high, max(self.low, keep + self.alpha * (x - mean))) for x in worth]

    def _worth(self, view: TokenView) -> Tensor:
        hidden_BND = view.need("hidden_BND").float()
        if self.by == "change":
            return 1 - cosine_similarity(hidden_BND, view.need("input_BND").float(), dim=-1).mean()
        return nearest_word(hidden_BND, view.need("text_BTD")).mean()


@checked
def apportioned(
    plan: Plan, alpha: float = 1.0, low: float = 0.05, high: float = 0.95, by: Literal["change", "words"] = "change"
) -> Plan:
    """The plan with one total for the images of each prompt, divided by their importance. Hugging Face engine only.

    Args:
        plan: any over images, cut inside the LLM for by="change", not at the encoder.
        alpha: how far shares follow importance.
        low: the least share that an image is weighed by.
        high: the largest.
        by: what importance is, see `Apportioned`.
    """
    return each_cut(plan, lambda cut: Apportioned(cut.select, alpha, low, high, by), per="prompt")
