"""Qwen2.5-VL's vision tower over a batch of equal pictures at once, and the start of one that trains quickly.

transformers runs one long row of patches and cuts it into pieces, a picture or a window at a time, which is right for
pictures of any size and slow for many small ones on a CPU. Here pictures are of one size, B x N x C in raster order; a
test holds the two to the same numbers.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from instruments.qwen.anatomy import MERGE, WINDOW

_BASE = 10_000.0
_LOCAL_LAYERS = 4
_PEAK = 4.5
"""How much more a head that looks at one neighbour scores it than what lies one patch further, in logits."""
_USEFUL = 4
"""Of its rotations: the slower ones hardly tell neighbours apart."""
_NEIGHBOURS = (((-1, 0), (1, 0), (0, -1), (0, 1)), ((-1, -1), (-1, 1), (1, -1), (1, 1)))


def tower_states(visual: Any, pixels_BCHW: Tensor) -> list[Tensor]:
    """States before and after each block, B x N x C in raster order, before the merger."""
    dtype = visual.patch_embed.proj.weight.dtype
    # A still picture is given twice, as two frames; both halves of the kernel see the same.
    kernel = visual.patch_embed.proj.weight.sum(2)
    x = F.conv2d(pixels_BCHW.to(dtype), kernel, stride=kernel.shape[-1])
    rows, columns = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    size = visual.config.hidden_size // visual.config.num_heads
    turn = _rotations(rows, columns, size)
    turn_inside = _rotations(WINDOW, WINDOW, size)
    states = [x]
    for i, block in enumerate(visual.blocks):
        whole = i in visual.fullatt_block_indexes or (rows, columns) == (WINDOW, WINDOW)
        y = block.norm1(x)
        if whole:
            y = _attend(block.attn, y, turn)
        else:
            y = _together(_attend(block.attn, _apart(y, rows, columns), turn_inside), rows, columns)
        x = x + y
        x = x + block.mlp(block.norm2(x))
        states.append(x)
    return states


def merged(visual: Any, last_BNC: Tensor, side: int) -> Tensor:
    """Visual tokens for the LLM, B x N/4 x D in raster order, from the last states of square pictures."""
    blocks = last_BNC.unflatten(1, (side // MERGE, MERGE, side // MERGE, MERGE)).transpose(2, 3)
    out: Tensor = visual.merger(blocks.flatten(0, 2).flatten(0, 1))
    return out.unflatten(0, (len(last_BNC), -1))


def _rotations(rows: int, columns: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine, N x size: half of the pairs turn with the row, half with the column."""
    speeds = 1.0 / _BASE ** (torch.arange(0, size // 2, 2).float() / (size // 2))
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij")
    angles = torch.cat([y.reshape(-1, 1) * speeds, x.reshape(-1, 1) * speeds], 1).repeat(1, 2)
    return angles.cos(), angles.sin()


def received(visual: Any, before_BNC: Tensor) -> Tensor:
    """Attention that each patch receives in the last block, from all patches, mean over heads, B x N; `before_BNC` is
    what enters that block."""
    block = visual.blocks[-1]
    side = isqrt(before_BNC.shape[1])
    turn = _rotations(side, side, block.attn.head_dim)
    return _weigh(block.attn, block.norm1(before_BNC), turn)[0].float().mean((1, 2))


def _attend(attention: Any, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    weights, values = _weigh(attention, x, turn)
    out: Tensor = attention.proj((weights @ values).transpose(1, 2).flatten(2))
    return out


def _weigh(attention: Any, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Attention weights, B x heads x N x N, and values."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    cos, sin = (part.to(x.dtype) for part in turn)
    q, k = (t * cos + _half(t) * sin for t in (q, k))
    return torch.softmax((q * attention.scaling) @ k.transpose(-1, -2), -1), v.contiguous()


def _half(x: Tensor) -> Tensor:
    one, other = x.chunk(2, -1)
    return torch.cat([-other, one], -1)


def _apart(x: Tensor, rows: int, columns: int) -> Tensor:
    """B x N x C to (B windows) x 64 x C."""
    tiles = x.unflatten(1, (rows // WINDOW, WINDOW, columns // WINDOW, WINDOW)).transpose(2, 3)
    return tiles.flatten(0, 2).flatten(1, 2)


def _together(x: Tensor, rows: int, columns: int) -> Tensor:
    """What `_apart` took apart."""
    tiles = x.unflatten(1, (WINDOW, WINDOW)).unflatten(0, (-1, rows // WINDOW, columns // WINDOW))
    return tiles.transpose(2, 3).flatten(1, 4)


@torch.no_grad()
def start_local(visual: Any) -> None:
    """Overwrite a fresh tower in place: in the first four blocks each head begins by looking at one neighbour.

    That is a 3 x 3 convolution written as attention. Rotary positions do it with biases alone: a query that is the same
    everywhere, and a key that is the same query turned back by the way to the neighbour.
    """
    width, heads = visual.config.hidden_size, visual.config.num_heads
    size = width // heads
    half, quarter = size // 2, size // 4
    speeds = 1.0 / _BASE ** (torch.arange(0, half, 2).float() / half)[:_USEFUL]
    strength = (_PEAK / (size**-0.5 * float((1 - speeds.cos()).sum()))) ** 0.5
    kernel = visual.patch_embed.proj.weight
    kernel.copy_(torch.randn_like(kernel[:, :, :1]).expand_as(kernel) * 0.5 * (kernel[0, :, 0].numel() ** -0.5))
    for index, block in enumerate(visual.blocks[:_LOCAL_LAYERS]):
        bias = torch.zeros(3, heads, size)
        for head in range(heads):
            for axis, way in enumerate(_NEIGHBOURS[index % 2][head % 4]):
                pairs = axis * quarter + torch.arange(_USEFUL)
                bias[0, head, pairs] = strength
                bias[1, head, pairs] = strength * torch.cos(way * speeds)
                bias[1, head, pairs + half] = -strength * torch.sin(way * speeds)
        block.attn.qkv.bias.copy_(bias.flatten())
        block.attn.qkv.weight[2 * width :].normal_(0, width**-0.5)
        block.attn.proj.weight.normal_(0, 0.5 * width**-0.5)
        for part in (block.mlp.gate_proj, block.mlp.up_proj):
            part.weight.normal_(0, width**-0.5)
        block.mlp.down_proj.weight.normal_(0, 0.5 * part.out_features**-0.5)
