"""Attention as plain matrix products: in bfloat16 on CPUs its backward pass is far faster than the fused one.

Where many questions share an image's prefix, most of a full score matrix is masked; told how long the prefix is, this
function never computes that part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PLAIN = "foveate_plain"
_BLOCK = 200
_MASKED = -1e4


def plain_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prefix: int = 0,
    watch: dict[int, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Softmax in the input's precision; as many key heads as query heads; no dropout; weights are not returned.

    With `shared_prefix` = P the first P rows are causal and all later rows see the whole prefix, whatever the mask says
    of them; between later rows the mask decides. `watch` receives the weights of the later rows of those layers whose
    numbers it holds, B x heads x rows x keys.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, value = query * scale, value.contiguous()
    if not shared_prefix or attention_mask is None:
        return _attend(query, key, value, 0, attention_mask)[0].transpose(1, 2).contiguous(), None
    parts = []
    for start in range(0, shared_prefix, _BLOCK):
        end = min(start + _BLOCK, shared_prefix)
        later = torch.full((end - start, end - start), _MASKED, dtype=query.dtype, device=query.device).triu(1)
        parts.append(_attend(query[:, :, start:end], key[:, :, :end], value[:, :, :end], start, later)[0])
    after = attention_mask[..., shared_prefix:, shared_prefix:]
    out, weights = _attend(query[:, :, shared_prefix:], key, value, shared_prefix, after)
    if watch is not None and module.layer_idx in watch:
        watch[module.layer_idx] = weights
    parts.append(out)
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, first: int, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Softmax attention and its weights; `mask` is added to the scores of the keys from `first` on."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    if mask is not None:
        scores[..., first:] += mask
    weights = torch.softmax(scores, -1)
    return torch.matmul(weights, value), weights


def register() -> str:
    """Make the function known to transformers under its own name, and return that name. Nothing else changes."""
    ALL_ATTENTION_FUNCTIONS.register(PLAIN, plain_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(PLAIN, eager_mask)
    return PLAIN
