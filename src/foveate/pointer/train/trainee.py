"""Frozen model and trainable selector as one module, so that one call gives a loss whatever wraps it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.pointer.noise import Denoiser, gate, support
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
        self.sums = torch.zeros(2)

    def begin(self) -> None:
        """A new update: the mean count starts anew."""
        self.sums = torch.zeros(2)

    def forward(self, numbers: Sequence[int], step: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss over a micro-batch, and figures to look at.

        The budget binds the mean count over all processes and micro-batches of the update so far, never each image: or
        no count could follow the content.
        """
        recipe, encoder = self.recipe, self._encoder()
        with torch.no_grad():
            seen = self.task.look(numbers)
        c = seen.candidates
        generator = torch.Generator(c.tokens_BND.device).manual_seed(seed)
        budget_B = (self.selector.config.budget * c.counts_B).clamp(min=1.0)
        most = min(c.tokens_BND.shape[1], int(recipe.room * float(budget_B.max()) + 0.5))
        soft = self.selector.soft(c, most, recipe.heat(step), generator, recipe.straight)
        others, gone = recipe.company(step)
        chosen = support(soft.alpha_BN, c.real_BN, most, others, gone, generator)
        places_BS = chosen.places_BS
        x_BSD = c.tokens_BND.gather(1, places_BS.unsqueeze(-1).expand(-1, -1, c.tokens_BND.shape[-1]))
        alpha_BS = soft.alpha_BN.gather(1, places_BS)
        mixed = gate(x_BSD, alpha_BS, encoder.mean_D, encoder.std_D, recipe.gate, generator)
        if self.denoiser is not None:
            mixed = self.denoiser(mixed, encoder.mean_D, encoder.std_D)
        nll, right = self.task.loss(seen, mixed, alpha_BS, chosen)

        share = soft.count_B.sum() / budget_B.sum()
        mine = torch.stack((soft.count_B.detach().sum(), budget_B.sum())).double()
        self.sums = self.sums.to(mine) + self.total(mine)
        over = (self.sums[0] / self.sums[1]).float() - 1
        # The value is that of the global mean; the gradient is what this part of the batch adds to it.
        pull = recipe.pull * (over.square() + 2 * over * (share - share.detach()))
        hardness = (soft.alpha_BN.square().sum(1) / soft.alpha_BN.sum(1).clamp(min=1e-6)).mean()
        figures = {"loss": nll, "right": right, "kept": share * self.selector.config.budget, "hardness": hardness}
        return nll + pull, {name: value.detach().float() for name, value in figures.items()}

    def _encoder(self) -> Any:
        return self.selector.pointing.encoder if hasattr(self.selector, "pointing") else self.selector.encoder
