"""A loaded model's decoder in numbers: what its FLOPs and its cache entries are made of."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from foveate.ops.flops import DecoderShape, decoder_flops
from foveate.report import Report


def decoder_shape(model: Any) -> DecoderShape | None:
    """The shape of the text decoder; None where it is not dense with gated MLPs, as far as its config tells."""
    config = model.config.get_text_config()
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    known = all(isinstance(getattr(config, n, None), int) for n in names)
    if not known or any(getattr(config, n, None) for n in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv = getattr(config, "num_key_value_heads", None) or heads
    return DecoderShape(config.hidden_size, config.intermediate_size, heads, kv, head_dim, config.vocab_size)


def entry_bytes(model: Any) -> int | None:
    """Bytes of one token's keys and values in one layer."""
    shape = decoder_shape(model)
    size = next(model.parameters()).element_size()
    return None if shape is None else 2 * shape.kv_heads * shape.head_dim * size


def prefill_flops(model: Any, lengths: Sequence[int], visual: int, report: Report | None, depth: int) -> float | None:
    """Decoder FLOPs of the prefill, a prompt of the batch on average; padding is not counted.

    Args:
        model: the model.
        lengths: tokens of each unpadded, unpruned prompt.
        visual: visual tokens of them all.
        report: what a plan left; None without one.
        depth: decoder layers.
    """
    if (shape := decoder_shape(model)) is None:
        return None
    b = len(lengths)
    if report is None:
        return fmean(decoder_flops([n] * depth, shape) for n in lengths)
    text = (sum(lengths) - visual) / b
    left = [sum(i.per_layer[layer] for i in report.images) / b for layer in range(depth)]
    return decoder_flops([text + n for n in left], shape)
