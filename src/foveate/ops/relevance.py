"""Order-keeping transforms of a relevance, for attention whose heavy tail would drown everything it is added to."""

from typing import Literal

import torch
from torch import Tensor

Transform = Literal["none", "rank", "log", "clip"]


@torch.no_grad()
def transform(relevance_BN: Tensor, kind: Transform = "none", clip: float = 0.9) -> Tensor:
    """Each image's relevance on another scale, never negative if it was not, in float32. The order never turns around.

    Args:
        relevance_BN: larger is more relevant; "log" is meant for attention, values of 0 count as the smallest above 0.
        kind: "none"; "rank": the share of the other tokens that are less relevant, in [0, 1]; "log": the logarithm
            above the image's least; "clip": cut off at the image's `clip` quantile.
        clip: a quantile in (0, 1], read by "clip" alone.
    """
    x_BN = relevance_BN.detach().float()
    if kind == "rank":
        # Strictly below: equals share a rank, so that the order of tokens does not matter.
        below_BN = torch.searchsorted(x_BN.sort(dim=1).values, x_BN.contiguous())
        return below_BN / max(1, x_BN.shape[1] - 1)
    if kind == "log":
        least_B1 = torch.where(x_BN > 0, x_BN, torch.inf).amin(1, keepdim=True)
        least_B1 = torch.where(least_B1.isinf(), 1.0, least_B1)
        return torch.log(torch.maximum(x_BN, least_B1) / least_B1)
    if kind == "clip":
        return torch.minimum(x_BN, x_BN.quantile(clip, dim=1, keepdim=True))
    return x_BN
