"""Clusters around density peaks: a centre has many near it, and nobody denser near."""

import torch
from torch import Tensor

from foveate.ops.topk import ranked


def density_peaks(x_BRD: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Cluster centres [B, C], places among R, and for each of the R the number of its centre.

    A centre has many near it and nobody denser near: density is exp(-mean of the squared distances to the C nearest),
    times the distance to the nearest denser one (Rodriguez and Laio 2014, as the release has it).
    """
    x_BRD = x_BRD.double()
    square_BR1 = x_BRD.square().sum(-1, keepdim=True)
    with torch.autocast(x_BRD.device.type, enabled=False):
        square_BRR = square_BR1 + square_BR1.mT - 2 * (x_BRD @ x_BRD.mT)
    # In float64, so that what is near in large numbers is near by more than rounding; in whole grains of it, so that
    # equal distances are equal, whatever else is in the batch.
    grain_B11 = square_BR1.amax(1, keepdim=True).clamp(min=1e-300) * 2.0**-40
    square_BRR = (square_BRR / grain_B11).round_().clamp_(min=0) * grain_B11
    far_BRR = (square_BRR / x_BRD.shape[-1]).sqrt()
    near_BRC = far_BRR.topk(min(clusters, far_BRR.shape[1]), largest=False).values
    dense_BR = near_BRC.square().mean(-1).neg().exp()
    above_BRR = dense_BR[:, None] > dense_BR[:, :, None]
    away_BR = torch.where(above_BRR, far_BRR, far_BRR.amax((1, 2), keepdim=True)).amin(-1)
    centre_BC = ranked(away_BR * dense_BR)[:, :clusters]
    nearest_BR = far_BRR.gather(1, centre_BC[:, :, None].expand(-1, -1, far_BRR.shape[2])).argmin(1)
    own_BC = torch.arange(clusters, device=x_BRD.device).expand_as(centre_BC)
    return centre_BC, nearest_BR.scatter(1, centre_BC, own_BC)
