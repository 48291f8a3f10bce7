"""The question, for a cut that comes before the prompt is embedded: the ids are known, so its words are looked up.

`generate` encodes images ahead of the forward pass and hands the encoder no ids; what it was called with is noted here.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.errors import SignalError
from foveate.geometry.base import Kind
from foveate.hf.calls import KINDS
from foveate.hf.locating import placeholders
from foveate.hf.prompt import without_last
from foveate.ops.host import read, upload
from foveate.question import question

_WAY = 'call the model or generate with input_ids and the pixels in one call, or cut at "input"'


def noted(local: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """`generate`, remembering for its own duration which prompt it was given."""

    @functools.wraps(original)
    def generate(*args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        before, local.prompt = getattr(local, "prompt", None), (ids, kwargs.get("attention_mask"))
        try:
            return original(*args, **kwargs)
        finally:
            local.prompt = before

    return generate


@torch.no_grad()
def words(attachment: Any, kind: Kind, tokens: Sequence[int]) -> list[Tensor]:
    """The word embeddings of the question of each image's prompt, [T, D].

    Args:
        attachment: whose prompt.
        kind: what is being encoded.
        tokens: how many places each image of this call takes, in order.

    Raises:
        SignalError: the ids are not known here, or do not place these images.
    """
    run = attachment.run
    prompt = getattr(attachment.local, "prompt", None) or (None, None)
    ids_BL, mask_BL = prompt if run is None else (run.ids, run.real)
    ids_BL, mask_BL = read(ids_BL, mask_BL)
    if ids_BL is None or bool((ids_BL < 0).any()):
        raise SignalError(
            "the selector reads the question at the encoder, but the prompt's ids are not known while this image is "
            f"encoded (a prompt given as embeddings, or an encoder called by itself); {_WAY}"
        )
    config, family = attachment.base.config, attachment.family
    visual_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    for each in KINDS:
        visual_BL |= placeholders(ids_BL, family.token_id(config, each))
    real_BL = torch.ones_like(visual_BL) if mask_BL is None else mask_BL.bool()
    if attachment.answers_B is not None:
        real_BL = without_last(real_BL, attachment.answers_B.cpu())
    special_BL = torch.isin(ids_BL, attachment.special)
    asks_BL, _ = question(real_BL, visual_BL, special_BL, attachment.tail)
    here_BL = placeholders(ids_BL, family.token_id(config, kind))
    row_of = here_BL.nonzero()[:, 0].tolist()
    if len(row_of) != sum(tokens):
        raise SignalError(
            f"the selector reads the question at the encoder, but {sum(tokens)} visual tokens are encoded for "
            f"{len(row_of)} placeholders, so no image's prompt is known; {_WAY}"
        )
    rule = attachment.words.get(attachment.encoder_cut.words)
    table, out, start = attachment.base.get_input_embeddings(), [], 0
    # Weights that are elsewhere come when they are asked for, and bring what they are asked to where they go.
    device = ids_BL.device if table.weight.is_meta else table.weight.device
    for n in tokens:
        row = row_of[start]
        start += n
        ids = ids_BL[row, asks_BL[row]]
        out.append(table(upload(ids if rule is None else ids[rule(ids)], device)))
    return out
