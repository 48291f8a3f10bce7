"""A loaded model's decoder in numbers: what its FLOPs and its cache entries are made of."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from foveate.hf.report import Report
from foveate.ops.flops import LayerShape
from foveate.ops.flops import prefill_flops as layers_flops


def decoder_shape(model: Any) -> LayerShape | None:
    """The shape of a decoder layer; None where it is not dense with gated MLPs, as far as its config tells."""
    config = model.config.get_text_config()
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    known = all(isinstance(getattr(config, n, None), int) for n in names)
    if not known or any(getattr(config, n, None) for n in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    return LayerShape.of(config)


def entry_bytes(model: Any) -> int | None:
    """Bytes of one token's keys and values in one layer."""
    shape = decoder_shape(model)
    size = next(model.parameters()).element_size()
    return None if shape is None else 2 * shape.kv_heads * shape.head * size


def prefill_flops(model: Any, lengths: Sequence[int], visual: int, report: Report | None, depth: int) -> float | None:
    """Decoder FLOPs of the prefill, a prompt of the batch on average, with the logits of its last token.

    Padding is not counted.

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
    head = 2 * shape.hidden * model.config.get_text_config().vocab_size
    if report is None:
        return head + fmean(layers_flops(shape, [n] * depth, 0) for n in lengths)
    text = (sum(lengths) - visual) / b
    left = [sum(i.per_layer[layer] for i in report.images) / b for layer in range(depth)]
    return head + layers_flops(shape, left, text)
