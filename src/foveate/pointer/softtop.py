"""A top-k with gradients: weights that rise with the score and sum to k exactly.

The optimal transport of Xie et al. (2020) between tokens and the two places "kept" and "dropped"; with an entropy term
that is a sigmoid of the score minus one threshold a row, which bisection finds and the implicit function theorem
differentiates. STS, StepPrune and DiffPrune (arXiv 2606.16067, 2609.13804, 2605.28051) turn scores into a gate with it.
"""

import torch
from torch import Tensor

_HALVINGS = 60
_ABSENT = -1e8
"""Scores below this are padding: they get no weight, and do not widen the search."""


def soft_top(score_BN: Tensor, k_B: Tensor, temperature: float) -> Tensor:
    """Weights in [0, 1] that sum to k in each row and rise with the score: sigmoid((score - threshold) / temperature).

    The threshold's own gradient is that of the condition that the sum stays k; k may have one too.
    """
    with torch.no_grad():
        low_B, high_B = score_BN.amax(1) - 1, score_BN.amax(1)
        low_B = low_B.minimum(score_BN.masked_fill(score_BN < _ABSENT, torch.inf).amin(1)) - 40 * temperature
        high_B = high_B + 40 * temperature
        for _ in range(_HALVINGS):
            middle_B = (low_B + high_B) / 2
            over = torch.sigmoid((score_BN - middle_B.unsqueeze(1)) / temperature).sum(1) > k_B
            low_B, high_B = torch.where(over, middle_B, low_B), torch.where(over, high_B, middle_B)
        threshold_B1 = ((low_B + high_B) / 2).unsqueeze(1)
        slope_BN = torch.sigmoid((score_BN - threshold_B1) / temperature)
        slope_BN = slope_BN * (1 - slope_BN)
        slope_B1 = slope_BN.sum(1, keepdim=True).clamp(min=1e-12)
        share_BN = slope_BN / slope_B1
    moved_B1 = threshold_B1 + (share_BN * (score_BN - score_BN.detach())).sum(1, keepdim=True)
    if k_B.requires_grad:
        moved_B1 = moved_B1 - (temperature / slope_B1) * (k_B - k_B.detach()).unsqueeze(1)
    return torch.sigmoid((score_BN - moved_B1) / temperature)
