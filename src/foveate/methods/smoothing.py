"""Scores under a small Gaussian on the token grid: what a neighbour is worth rubs off."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from foveate.selection import Block, TokenView


def smoothed(score_BN: Tensor, view: TokenView) -> Tensor:
    """Scores under a 3 x 3 Gaussian of width 1, block by block; newline tokens keep theirs."""
    if view.grid is None:
        return score_BN
    edge = torch.exp(-0.5 * torch.arange(-1.0, 2.0, device=score_BN.device).square())
    kernel_33 = edge[:, None] * edge / edge.sum() ** 2
    out_BN = score_BN.clone()
    for block in view.blocks():
        here = slice(block.start, block.start + block.size)
        plane_BRC = score_BN[:, here].unflatten(1, (block.rows, block.row_stride))[:, :, : block.columns]
        mode = "reflect" if min(block.rows, block.columns) > 1 else "replicate"
        soft_BRC = conv2d(pad(plane_BRC[:, None], (1, 1, 1, 1), mode), kernel_33[None, None])[:, 0]
        out_BN[:, _cells(block, out_BN.device)] = soft_BRC.flatten(1)
    return out_BN


def _cells(block: Block, device: torch.device) -> Tensor:
    row_R1 = torch.arange(block.rows, device=device)[:, None] * block.row_stride
    return (block.start + row_R1 + torch.arange(block.columns, device=device)).flatten()
