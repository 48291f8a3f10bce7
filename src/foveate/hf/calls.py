"""What a call of a model says: its arguments by name, and ids for prompts that came as embeddings."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from foveate.geometry.base import Kind
from foveate.hf.families.base import Family

KINDS: tuple[Kind, ...] = ("image", "video")


def named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name, however they were passed."""
    if not args:
        return kwargs
    given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    return given | given.pop("kwargs", {})


def special_ids(model: Any) -> Tensor:
    """Ids that mark places and are no text: BOS, EOS, padding, vision markers."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "vision_start_token_id", "vision_end_token_id")
    configs = [model.config, model.config.get_text_config(), getattr(model, "generation_config", None)]
    ids: set[int] = set()
    for config in configs:
        for name in names:
            value = getattr(config, name, None)
            ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return torch.tensor(sorted(ids), dtype=torch.long)


def stand_in_ids(family: Family, base: Any, embeds: Tensor, special: Tensor) -> Tensor:
    """Stand-in ids for a prompt given as embeddings: placeholders are found as the model itself finds them."""
    out = torch.full(embeds.shape[:2], -1, device=embeds.device)
    table = base.get_input_embeddings()
    for kind in KINDS:
        token = family.token_id(base.config, kind)
        for i in (*special.tolist(), *([] if token is None else [token])):
            out[(embeds == table(torch.tensor(i, device=embeds.device))).all(-1)] = i
    return out
