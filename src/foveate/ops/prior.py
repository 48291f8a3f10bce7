"""What a score says beyond what it would say without the question."""

import torch
from torch import Tensor

from foveate.ops.cosine import check_finite


@torch.no_grad()
def against_prior(score_BN: Tensor, prior_BN: Tensor, eps: float = 1e-6, weighted: bool = True) -> Tensor:
    """p log(p / q), the pointwise part of a Kullback-Leibler divergence (PriorTR); unweighted, the ratio p / q alone.

    Args:
        score_BN: 0 or more; made to sum to 1 over each image.
        prior_BN: the same without the question.
        eps: added to both under the logarithm, or below the ratio (D2Pruner, RoRA).
        weighted: False gives p / (q + eps).

    Returns:
        Scores [B, N] to rank by, float32 whatever came in: rounded to half precision they would tie.

    Raises:
        SignalError: a value is NaN or infinite.
    """
    check_finite(score_BN, "scores")
    check_finite(prior_BN, "priors")
    p_BN, q_BN = (x / x.sum(1, keepdim=True).clamp(min=1e-30) for x in (score_BN.float(), prior_BN.float()))
    return p_BN * ((p_BN + eps) / (q_BN + eps)).log() if weighted else p_BN / (q_BN + eps)
