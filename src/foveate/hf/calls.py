"""What a call of a model says: its arguments by name, and ids for prompts that came as embeddings."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from foveate.geometry.base import Kind
from foveate.hf.families.base import Family
from foveate.question import marked

KINDS: tuple[Kind, ...] = ("image", "video")
SIZES = ("grid_thw", "image_sizes", "spatial_shapes")
"""How arguments end that say how large pictures are."""


def named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, however they were passed."""
    if not args:
        return kwargs
    given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    return given | given.pop("kwargs", {})


def special_ids(model: Any, tokenizer: Any = None) -> Tensor:
    """Ids that mark places and are no text, from all that a model's configs, and its tokenizer, say."""
    configs = (model.config, model.config.get_text_config(), getattr(model, "generation_config", None))
    return marked(configs, tokenizer)


def stand_in_ids(family: Family, base: Any, embeds: Tensor, special: Tensor) -> Tensor:
    """Stand-in ids for a prompt given as embeddings: placeholders are found as the model itself finds them."""
    out = torch.full(embeds.shape[:2], -1, device=embeds.device)
    table = base.get_input_embeddings()
    for kind in KINDS:
        token = family.token_id(base.config, kind)
        known = special[special < table.weight.shape[0]].tolist()
        for i in (*known, *([] if token is None else [token])):
            out[(embeds == table(torch.tensor(i, device=embeds.device))).all(-1)] = i
    return out
