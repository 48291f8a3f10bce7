"""Frozen model and trainable selector as one module, so that one call gives a loss whatever wraps it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.pointer.noise import Denoiser, gate, support
from foveate.pointer.soft import Soft
from foveate.pointer.train.recipe import Recipe
from foveate.pointer.train.task import Task


class Trainee(nn.Module):
    """A selector in front of a model that does not learn.

    Args:
        task: what to be right about.
        model: the frozen model that the task asks; its parameters stop wanting gradients.
        selector: what learns.
        recipe: how.
        total: a sum over all processes.
    """

    def __init__(
        self, task: Task, model: nn.Module, selector: Any, recipe: Recipe, total: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.task, self.recipe, self.total = task, recipe, total
        self.model, self.selector = model.requires_grad_(False), selector
        self.denoiser = Denoiser(selector.config.features) if recipe.denoise else None
        # How strongly a drawn budget or lambda speaks to the stop; in use, the stop's bias takes its place.
        self.dial = nn.Parameter(torch.tensor(1.0)) if recipe.spread else None
        self.sums = torch.zeros(2)

    def begin(self) -> None:
        """A new update: the mean count starts anew."""
        self.sums = torch.zeros(2)

    def forward(self, numbers: Sequence[int], step: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss over a micro-batch, and figures to look at.

        The budget binds the mean count over all processes and micro-batches of the update so far, never each image: or
        no count could follow the content.
        """
        recipe, encoder = self.recipe, self.selector.encoder
        with torch.no_grad():
            seen = self.task.look(numbers)
        c = seen.candidates
        generator = torch.Generator(c.tokens_BND.device).manual_seed(seed)
        budget, bias = self._asked(step)
        n = c.tokens_BND.shape[1]
        budget_B = (budget * c.counts_B).clamp(min=1.0)
        free = recipe.length == "pressure"
        most = max(1, int(min(recipe.most * n, n if free else recipe.room * float(budget_B.max())) + 0.5))
        soft = self.selector.soft(c, most, recipe.heat(step), generator, bias)
        others, gone = (n, 0.0) if recipe.everything else recipe.company(step)
        best = most if free else min(most, max(1, int(recipe.crowd * float(budget_B.max()) + 0.5)))
        chosen = support(soft.alpha_BN, c.real_BN, best, others, gone, generator)
        places_BS = chosen.places_BS
        x_BSD = c.tokens_BND.gather(1, places_BS.unsqueeze(-1).expand(-1, -1, c.tokens_BND.shape[-1]))
        alpha_BS = soft.alpha_BN.gather(1, places_BS)
        mixed = gate(x_BSD, alpha_BS, encoder.mean_D, encoder.std_D, recipe.gate, generator)
        if self.denoiser is not None:
            mixed = self.denoiser(mixed, encoder.mean_D, encoder.std_D)
        nll, right = self.task.loss(seen, mixed, alpha_BS, chosen)
        share = soft.count_B.sum() / c.counts_B.sum()
        length = share * (recipe.drawn(step) or 0.0) if recipe.length == "pressure" else self._pull(soft, budget_B)
        hardness = (soft.alpha_BN.square().sum(1) / soft.alpha_BN.sum(1).clamp(min=1e-6)).mean()
        figures = {"loss": nll, "right": right, "kept": share, "hardness": hardness}
        return nll + length, {name: value.detach().float() for name, value in figures.items()}

    def _asked(self, step: int) -> tuple[float, Tensor | float]:
        """The budget of this update, and what the stop is told of it or of lambda."""
        budget, drawn = self.selector.config.budget, self.recipe.drawn(step)
        if drawn is None or self.dial is None:
            return budget, 0.0
        told = self.dial * math.log(drawn / self.recipe.middle())
        return (budget, told) if self.recipe.length == "pressure" else (drawn, -told)

    def _pull(self, soft: Soft, budget_B: Tensor) -> Tensor:
        """What draws the mean count to the budget."""
        share = soft.count_B.sum() / budget_B.sum()
        mine = torch.stack((soft.count_B.detach().sum(), budget_B.sum())).double()
        self.sums = self.sums.to(mine) + self.total(mine)
        over = (self.sums[0] / self.sums[1]).float() - 1
        # The value is that of the global mean; the gradient is what this part of the batch adds to it.
        return self.recipe.pull * (over.square() + 2 * over * (share - share.detach()))
