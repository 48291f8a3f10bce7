"""Weigh attention by how much a token's detail has changed since the layers before; later cuts go by attention alone.

CLSE, arXiv 2606.24165. Compared with zjubinchen/CLSE @ cfc9710abe4a1bd5480e521f3acd86ded4855ff3
(`calculate_evolution_score`): the same tokens on every stored case.

Detail is the channel mean of |high-pass of the states on the token grid|, with the mask 1 - exp(-f^2 / (2 s^2)) over
frequency bins f and s a tenth of half the shorter side. Its relative change, from the tokens as the LLM received them
to the first cut, is z-scored, squashed by a sigmoid of slope 10, and multiplied with the last token's attention.

Differences: a grid one token high or wide, where the release gives NaN, has no detail, and tokens outside the grid's
cells (newlines) have none either: their factor is one half. Counts are scaled so that the mean over the layers is
`keep`; the paper's own leave out the layers before the first cut.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.methods.fastv import LAST, TextAttention
from foveate.plan import Plan
from foveate.selection import Attention, Block, Selection, Selector, TokenView
from foveate.typed import checked

_EPS = 1e-6
# Before layers 1, 11 and 21 of 32, in units of the paper's K.
_LAYERS, _DEPTH, _SHAPE = (1, 11, 21), 32, (1.72, 1.09, 0.32)


@dataclass(frozen=True)
class Evolving:
    """The k tokens of highest attention times change of detail."""

    attention: Attention = LAST

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_BND", "input_BND", "text_attn_BN", "grid"})
    adaptive: ClassVar[bool] = False

    def __call__(self, view: TokenView, k: int) -> Selection:
        """Exactly k tokens."""
        attn_BN = view.need("text_attn_BN").float()
        return Selection.top(attn_BN * evolution(view.need("hidden_BND"), view.need("input_BND"), view.blocks()), k)


def evolution(now_BND: Tensor, before_BND: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """[B, N] in (0, 1): one half for a change of the mean size."""
    now_BN, before_BN = (_detail(x, blocks) for x in (now_BND, before_BND))
    scale_BN = before_BN.mean(1, keepdim=True) + before_BN + _EPS
    change_BN = ((now_BN - before_BN).abs() / scale_BN).clamp(max=1)
    spread_B1 = change_BN.std(1, keepdim=True) if change_BN.shape[1] > 1 else torch.zeros_like(change_BN)
    return ((change_BN - change_BN.mean(1, keepdim=True)) / (spread_B1 + _EPS) / 0.1).sigmoid()


def _detail(x_BND: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """Channel mean of the high-passed states: [B, N]; 0 at tokens of no cell."""
    out_BN = x_BND.new_zeros(x_BND.shape[:2], dtype=torch.float32)
    for block in blocks:
        scale = 0.1 * min(block.rows // 2, block.columns // 2)
        if not scale:
            continue
        here = slice(block.start, block.start + block.size)
        plane_BRCD = x_BND[:, here].float().unflatten(1, (block.rows, block.row_stride))[:, :, : block.columns]
        row_R1, col_C = (torch.fft.fftfreq(s, 1 / s, device=x_BND.device) for s in (block.rows, block.columns))
        pass_RC = 1 - torch.exp(-(row_R1[:, None] ** 2 + col_C**2) / (2 * scale**2))
        wave_BRCD = torch.fft.fft2(plane_BRCD, dim=(1, 2)) * pass_RC[:, :, None]
        soft_BRC = torch.fft.ifft2(wave_BRCD, dim=(1, 2)).abs().mean(-1)
        spread_BRC = torch.nn.functional.pad(soft_BRC, (0, block.row_stride - block.columns))
        out_BN[:, here] = spread_BRC.flatten(1)
    return out_BN


@checked
def clse(keep: float | int, layers: tuple[int | float, ...] | None = None) -> Plan:
    """CLSE: change of detail times attention, then attention, at three layers inside the LLM.

    Args:
        keep: a fraction (float) is the mean over all layers of the share that stays; a number (int) is the paper's K,
            of which 1.72, 1.09 and 0.32 stay after the three cuts.
        layers: the three places, layers or fractions of the depth; by default those of layers 1, 11 and 21 of 32.
    """
    check_keep(keep)
    if layers is not None and len(layers) != len(_LAYERS):
        raise PlanError(f"layers are {layers}; CLSE cuts at three")
    places = layers or tuple(layer / _DEPTH for layer in _LAYERS)
    if isinstance(keep, int):
        keeps: list[float | int] = [max(1, int(keep * s + 0.5)) for s in _SHAPE]
    else:
        keeps = [1.0 if keep == 1 else min(1.0, keep * s) for s in _SHAPE]
    selects: tuple[Selector, ...] = (Evolving(), TextAttention(LAST), TextAttention(LAST))
    cuts = tuple(Cut(*one) for one in zip(places, selects, keeps, strict=True))
    return Plan(cuts, mean=keep if isinstance(keep, float) and layers is None else None)
