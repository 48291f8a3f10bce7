"""What a decoder's prefill costs in floating-point operations, from its shape and the tokens each layer sees.

A multiplication and an addition are two operations. Attention is counted over the whole square, as PyTorch's counter
does, although a causal kernel may skip half of it; norms, rotations and softmax, below a percent, are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DecoderShape:
    """A dense decoder with gated MLPs (Llama, Qwen)."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


def layer_flops(tokens: float, shape: DecoderShape, context: float | None = None) -> float:
    """One layer over `tokens` new tokens that attend to `context` positions (themselves by default)."""
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    projections = 2 * tokens * shape.hidden * (2 * wide + 2 * narrow)
    attention = 4 * tokens * (tokens if context is None else context) * wide
    return projections + attention + 6 * tokens * shape.hidden * shape.intermediate


def decoder_flops(tokens_per_layer: Sequence[float], shape: DecoderShape) -> float:
    """A prefill of one prompt that computes the logits of its last token.

    Args:
        tokens_per_layer: prompt tokens (text and visual) that each decoder layer sees.
        shape: the decoder's.
    """
    return sum(layer_flops(n, shape) for n in tokens_per_layer) + 2 * shape.hidden * shape.vocab
