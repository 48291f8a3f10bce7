"""Picking for training: every pick a weighting of all tokens, every stop a chance, so that gradients see both.

A token's alpha is the chance that some live step picked it; the count is the number of live picks. As the temperature
falls to 0 and the perturbation is off, each pick becomes the best token left and each chance what `picking` reads.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.pointer.candidates import Candidates
from foveate.pointer.pointing import Asked, Pointing

_FLOOR = 1e-4
"""What is left of a token that is wholly taken. Not 0, or its score would be lost for good."""
_TINY = 1e-20
Scored = Literal["alive", "sum", "last"]


@dataclass(frozen=True)
class Heat:
    """How soft: the temperature of picks and stops, and the size of the Gumbel and logistic perturbation of both.

    Without a perturbation a selector learns to spread each pick over many tokens that only help together, and which
    mean nothing once the picks are hard. `chained`: whether a pick also learns from what it changes for later picks.
    Over dozens of picks that chain explodes as the temperature falls. `straight`: hard values with soft gradients (the
    straight-through estimator). For the published selector, whose history is always straight: `text` is how far the
    question is let in, `beta` how fast later rounds count less, `scored` what the trajectory score sums (see
    `stepwise.unroll.weights`), `logs` whether Soft Top-K sees its logarithm (scores of late rounds are small, and the
    temperature would not tell them from those of tokens that were never picked), and `felt` whether the number of
    tokens that it keeps has a gradient.
    """

    temperature: float
    perturbation: float
    chained: bool = False
    straight: bool = False
    beta: float = 0.9
    text: float = 1.0
    logs: bool = True
    scored: Scored = "alive"
    felt: bool = False


@dataclass(frozen=True)
class Soft:
    """alpha_BN in [0, 1]: how far each token is kept; count_B: how many picks were live."""

    alpha_BN: Tensor
    count_B: Tensor


def gumbel(like: Tensor, scale: float, generator: torch.Generator | None) -> Tensor | float:
    """Gumbel noise of the shape of `like`."""
    if scale == 0:
        return 0.0
    return -scale * torch.empty_like(like).exponential_(generator=generator).clamp(min=_TINY).log()


def logistic(like: Tensor, scale: float, generator: torch.Generator | None) -> Tensor | float:
    """Logistic noise of the shape of `like`."""
    if scale == 0:
        return 0.0
    return gumbel(like, scale, generator) - gumbel(like, scale, generator)


def hardened(p: Tensor, hard: Tensor) -> Tensor:
    """The straight-through estimator: the value of `hard`, the gradient of `p`."""
    return hard.to(p) + p - p.detach()


def soften(
    pointing: Pointing,
    c: Candidates,
    most: int,
    heat: Heat,
    generator: torch.Generator | None = None,
    stop_bias: Tensor | float = 0.0,
) -> Soft:
    """A differentiable selection of about as many tokens as the stop says.

    Args:
        pointing: what to pick by.
        c: the images, padded or not.
        most: picks at most; an image is not picked from more often than it has tokens.
        heat: how soft.
        generator: of the perturbation, on the device of the tokens.
        stop_bias: the length pressure as an input: added to the stop's logit.
    """
    config = pointing.config
    scene, memory_Bm = pointing.scene(c)
    floor = max(heat.temperature, config.stop_scale)
    alpha_BN = covered_BN = torch.zeros_like(scene.score_BN)
    live_B = torch.ones_like(scene.score_BN[:, 0])
    count_B = torch.zeros_like(live_B)
    for start in range(0, most, config.group):
        asked = pointing.ask(scene, memory_Bm, start)
        picked_BN = torch.zeros_like(alpha_BN)
        size = min(config.group, most - start)
        for place in range(size):
            left_BN = (1 - alpha_BN.detach()).clamp(min=_FLOOR).log()
            u_BN = pointing.covered(asked, covered_BN) + left_BN
            if start and not place and config.stop != "none":
                chance_B = _stopping(pointing, asked, u_BN, heat, floor, generator, stop_bias)
                live_B = live_B * (1 - chance_B if not heat.straight else 1 - hardened(chance_B, chance_B > 0.5))
            live_B = live_B * (start + place < c.counts_B)
            p_BN = F.softmax((u_BN + gumbel(u_BN, heat.perturbation, generator)) / heat.temperature, -1)
            if heat.straight:
                p_BN = hardened(p_BN, F.one_hot(p_BN.argmax(-1), p_BN.shape[1]))
            alpha_BN = alpha_BN + live_B.unsqueeze(1) * p_BN * (1 - alpha_BN)
            count_B = count_B + live_B
            passed_BN = p_BN if heat.chained else p_BN.detach()
            covered_BN = pointing.cover(scene, covered_BN, _mean(passed_BN, scene.sight_BNd))
            picked_BN = picked_BN + passed_BN / size
        if config.state:
            memory_Bm = pointing.remember(memory_Bm, _mean(picked_BN, scene.state_BNm))
    return Soft(alpha_BN, count_B)


def _stopping(
    pointing: Pointing,
    asked: Asked,
    u_BN: Tensor,
    heat: Heat,
    floor: float,
    generator: torch.Generator | None,
    stop_bias: Tensor | float,
) -> Tensor:
    """The chance that the sequence ends here."""
    if pointing.config.stop == "softmax":
        rest_B = heat.temperature * torch.logsumexp(u_BN / heat.temperature, -1)
        return torch.sigmoid((pointing.stop(asked, rest_B) + stop_bias) / heat.temperature)
    logit_B = pointing.stop(asked, u_BN.amax(-1)) + stop_bias
    return torch.sigmoid((logit_B + logistic(logit_B, heat.perturbation, generator)) / floor)


def _mean(p_BN: Tensor, x_BNd: Tensor) -> Tensor:
    return (p_BN.unsqueeze(1) @ x_BNd).squeeze(1)
