"""What a decoder layer costs in floating-point operations, from the numbers of its shape alone.

Counted as `torch.utils.flop_counter` counts: matrix products only, a multiplication and an addition are two, and the
attention map in full although half of it is masked. Norms, rotations and softmax are left out, and so is the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foveate.errors import PlanError


@dataclass(frozen=True)
class LayerShape:
    """One decoder layer.

    Args:
        hidden: width of the states.
        intermediate: width inside the feed-forward part.
        heads: query heads.
        kv_heads: key and value heads.
        head: width of one head.
        gated: a feed-forward part of three matrices (SwiGLU); False: of two.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    gated: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden", "intermediate", "heads", "kv_heads", "head"):
            if (value := getattr(self, name)) < 1:
                raise PlanError(f"{name} is {value}; every number of a layer's shape is at least 1")

    @classmethod
    def of(cls, config: Any, gated: bool = True) -> "LayerShape | None":
        """The shape that a Hugging Face text config describes; None where it tells none, or one a layer."""
        try:
            head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            kv = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            return cls(config.hidden_size, config.intermediate_size, config.num_attention_heads, kv, head, gated)
        except (AttributeError, TypeError, RuntimeError, PlanError):  # Gemma 4's config raises the third
            return None

    def flops(self, n: float, past: float = 0) -> float:
        """Operations for n tokens that attend to themselves and to `past` cached ones."""
        inner = self.heads * self.head
        projections = 2 * n * self.hidden * (2 * inner + 2 * self.kv_heads * self.head)
        attention = 4 * n * (n + past) * inner
        feed_forward = 2 * n * self.hidden * self.intermediate * (3 if self.gated else 2)
        return projections + attention + feed_forward


def prefill_flops(shape: LayerShape, counts: Sequence[float], text: float) -> float:
    """Operations of a prefill in which layer i sees counts[i] visual tokens and `text` others."""
    return sum(shape.flops(n + text) for n in counts)


def visual_share(shape: LayerShape, counts: Sequence[float], tokens: float, text: float) -> float:
    """The part of the visual tokens' operations that is left: 1 with all `tokens` in each layer, 0 with none."""
    none = prefill_flops(shape, [0] * len(counts), text)
    full = prefill_flops(shape, [tokens] * len(counts), text)
    return (prefill_flops(shape, counts, text) - none) / (full - none)
