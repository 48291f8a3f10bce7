"""Prompts with their answers behind them, and what is to be said at each place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.engines.loading import Engine
from foveate.engines.prompting import closing
from foveate.hf.families import family

NONE = -100


def answered(engine: Engine, inputs: dict[str, Any], answers: Sequence[str]) -> tuple[dict[str, Any], Tensor]:
    """Inputs with each prompt's answer and the end token after it, and what is to be said at each place."""
    end = closing(engine)
    tokenizer = engine.processor.tokenizer
    rows = [tokenizer(a, add_special_tokens=False)["input_ids"] + end for a in answers]
    ids_BL = inputs["input_ids"]
    b, length = ids_BL.shape
    width = max(map(len, rows))
    fill = tokenizer.pad_token_id or 0
    more = ids_BL.new_tensor([r + [fill] * (width - len(r)) for r in rows])
    real = ids_BL.new_tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    kinds = torch.full_like(more, family(engine.model).answer_type)
    out = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == (b, length):
            tail = {"input_ids": more, "attention_mask": real, "token_type_ids": kinds}.get(
                name, torch.zeros_like(more)
            )
            out[name] = torch.cat((value, tail.to(value)), 1)
    next_BL = ids_BL.new_full((b, length + width), NONE)
    # The token at a place is said by the place before it.
    next_BL[:, length - 1 : length + width - 1] = more.masked_fill(real == 0, NONE)
    return out, next_BL
