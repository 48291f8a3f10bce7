"""What the language model gives back, brought to the length of its input: dropped places are 0."""

from typing import Any

import torch
from torch import Tensor

from foveate.errors import ModelError
from foveate.hf.cache import kept_of
from foveate.hf.kept import extend
from foveate.hf.step import Step


def restore(step: Step, output: Any, short: bool) -> Any:
    """The language model's output at full length.

    Args:
        step: the pass that has just ended.
        output: what it gave back.
        short: states are those of segments; else each layer has given back whole ones.

    Raises:
        ModelError: what experts' routers said is asked for, from which models make a loss beside that of the labels.
    """
    if isinstance(output, tuple):
        return (step.segment.scatter(output[0], step.l), *output[1:]) if short else output
    if output.get("router_logits") is not None and any(s.index_BM is not None for s in step.of_layer):
        raise ModelError(
            "router_logits have a row for each token, of which some are gone; the loss that balances experts counts "
            "all; pass output_router_logits=False, or detach first"
        )
    if short:
        output["last_hidden_state"] = step.segment.scatter(output["last_hidden_state"], step.l)
        if output.get("hidden_states") is not None:
            # The first entry goes into layer 0; each later one comes out of a layer.
            states = zip(output["hidden_states"], [step.base, *step.of_layer], strict=True)
            output["hidden_states"] = tuple(s.scatter(h, step.l) for h, s in states)
    if output.get("attentions") is not None:
        output["attentions"] = tuple(_map(step, a, i) for i, a in enumerate(output["attentions"]))
    return output


def _map(step: Step, x: Tensor, layer: int) -> Tensor:
    """A layer's attention map [B, H, M, P + M] over the input's queries and all positions."""
    segment, kept = step.of_layer[layer], kept_of(step.cache, layer)
    if kept is None and segment.index_BM is None:
        return x
    index = segment.index_BM
    if index is None:
        index = torch.arange(step.l, device=x.device).expand(step.b, -1)
    # `remember` has run: where it cut, `kept` already tells about this pass too.
    keys = (
        kept if kept is not None and kept.covers > step.past else extend(kept, step.past, index, step.l, filled=False)
    )
    where = torch.where(keys.index_BP < 0, keys.covers, keys.index_BP).to(x.device)[:, None, None].expand_as(x)
    full = x.new_zeros(*x.shape[:3], keys.covers + 1).scatter(3, where, x)[..., :-1]
    return segment.scatter(full, step.l, 2)
