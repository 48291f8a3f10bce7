"""Structured starts: vision heads begin by looking at one neighbour each, decoder heads by matching like with like.

A ViT of this size spends most of a small budget on finding out that neighbours exist. Here the first quarter of the
channels begins as sine-cosine positions and nothing else, and in the first four layers each head begins as attention
to one neighbour: a 3 x 3 convolution written as attention. All weights stay free to change.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from foveate.tiny.vocabulary import GRID, PATCH

_NEIGHBOURS = (((-1, 0), (1, 0), (0, -1), (0, 1)), ((-1, -1), (-1, 1), (1, -1), (1, 1)))
_LOCAL_LAYERS = 4
_MATCH, _CARRY = 0.7, 0.2


def waves(count: int, shortest: float, longest: float) -> Tensor:
    """Angular frequencies of `count` wavelengths, given in patches, spaced evenly in their logarithm."""
    ratio = longest / shortest
    return 2 * math.pi / (shortest * ratio ** (torch.arange(count) / (count - 1)))


def encode_positions(frequencies: Tensor) -> Tensor:
    """Sine and cosine of every patch's row and column, 576 x 4F: [sin y, cos y, sin x, cos x]."""
    y, x = torch.meshgrid(torch.arange(GRID).float(), torch.arange(GRID).float(), indexing="ij")
    return torch.cat([f(v.reshape(-1, 1) * frequencies) for v in (y, x) for f in (torch.sin, torch.cos)], 1)


@torch.no_grad()
def start_local(clip: CLIPModel) -> None:
    """Overwrite the fresh vision tower of `clip` in place."""
    tower = clip.vision_model
    width, heads = tower.config.hidden_size, tower.config.num_attention_heads
    size = width // heads
    frequencies = waves(size // 4, 3.0, 48.0)
    embeddings = tower.embeddings
    embeddings.position_embedding.weight.normal_(0, 0.02)
    embeddings.position_embedding.weight[1:, :size] = encode_positions(frequencies)
    kernel = embeddings.patch_embedding.weight
    kernel.normal_(0, (3 * PATCH**2) ** -0.5)
    kernel[:size] = 0
    embeddings.class_embedding.normal_(0, 0.5)
    for index, layer in enumerate(tower.encoder.layers[:_LOCAL_LAYERS]):
        attention = layer.self_attn
        for head in range(heads):
            turn = _shift(frequencies, *_NEIGHBOURS[index % 2][head % 4])
            rows = slice(head * size, (head + 1) * size)
            _set(attention.q_proj, rows, turn)
            _set(attention.k_proj, rows, torch.eye(size))
        attention.v_proj.weight.normal_(0, width**-0.5)
        attention.out_proj.weight.normal_(0, 0.5 * width**-0.5)
        layer.mlp.fc1.weight.normal_(0, width**-0.5)
        layer.mlp.fc2.weight.normal_(0, 0.5 * width**-0.5)


@torch.no_grad()
def start_matching(decoder: Any) -> None:
    """Let every head of a fresh Llama begin as a mild match of like with like, and pass on what it finds.

    Queries and keys begin as the same rotation, values and outputs as one and its inverse, so that a word looks a
    little more at patches that lie near it. Both are small enough that nothing is fixed.
    """
    for layer in decoder.layers:
        attention = layer.self_attn
        width = attention.q_proj.weight.shape[0]
        match, carry = (nn.init.orthogonal_(torch.empty(width, width)) for _ in range(2))
        attention.q_proj.weight.copy_(_MATCH * match)
        attention.k_proj.weight.copy_(_MATCH * match)
        attention.v_proj.weight.copy_(carry)
        attention.o_proj.weight.copy_(_CARRY * carry.T)


def _shift(frequencies: Tensor, dy: int, dx: int) -> Tensor:
    """The rotation that moves a sine-cosine position by (dy, dx) patches."""
    n = len(frequencies)
    turn = torch.zeros(4 * n, 4 * n)
    j = torch.arange(n)
    for offset, distance in ((0, dy), (2 * n, dx)):
        cos, sin = torch.cos(frequencies * distance), torch.sin(frequencies * distance)
        turn[offset + j, offset + j] = cos
        turn[offset + j, offset + n + j] = sin
        turn[offset + n + j, offset + j] = -sin
        turn[offset + n + j, offset + n + j] = cos
    return turn


def _set(linear: nn.Linear, rows: slice, block: Tensor) -> None:
    weight = torch.randn(block.shape[0], linear.weight.shape[1]) * 0.01
    weight[:, : block.shape[1]] += 0.95 * block
    linear.weight[rows] = weight
