"""The first stage of a selector that reads the question: worth is taught by what the frozen model looks at.

Before it answers, a model has read the question, and its last token looks where the answer is. That costs one pass
without gradients a question, no answers and no boxes; and what comes of it is a distribution over tokens, which tells
a selector of every token what a few hundred answers would tell of hardly any.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.errors import FoveateError
from foveate.pointer.train.recipe import Recipe
from foveate.pointer.train.task import Teaching


def divergence(worth_BN: Tensor, wanted_BN: Tensor) -> Tensor:
    """KL(wanted | softmax of worth), mean over pictures.

    Args:
        worth_BN: scores; far below all others at padding.
        wanted_BN: what each token should get, in any unit; 0 at padding.
    """
    share_BN = wanted_BN / wanted_BN.sum(1, keepdim=True).clamp(min=1e-12)
    return F.kl_div(F.log_softmax(worth_BN, 1), share_BN, reduction="batchmean")


class Lesson(nn.Module):
    """A selector beside the model that teaches it; in place of `Trainee`, whose arguments it takes."""

    def __init__(
        self, task: Any, model: nn.Module, selector: Any, recipe: Recipe, _total: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        if not hasattr(selector, "worth"):
            raise FoveateError(f"{type(selector).__name__} scores no token before it picks; teach a coverage selector")
        self.task: Teaching = task
        self.model, self.selector = model.requires_grad_(False), selector
        self.layers = list(recipe.teachers) or self.task.teachers()

    def begin(self) -> None:
        """Nothing is carried over from update to update."""

    def forward(self, numbers: Sequence[int], _step: int, _seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The divergence of worth from attention, and how much attention the best of the budget would catch."""
        with torch.no_grad():
            c, wanted_BN = self.task.look(numbers).candidates, self.task.gaze(numbers, self.layers)
        with torch.autocast(c.tokens_BND.device.type, enabled=False):
            worth_BN = self.selector.worth(c)
            loss = divergence(worth_BN, wanted_BN)
        k = max(1, int(self.selector.config.budget * worth_BN.shape[1] + 0.5))
        caught_B = wanted_BN.gather(1, worth_BN.topk(k, 1).indices).sum(1) / wanted_BN.sum(1).clamp(min=1e-12)
        return loss, {"loss": loss.detach(), "caught": caught_B.mean()}
