"""The yardstick: an unpatched model that keeps every token, and masks the dropped ones from the layer where they went.

An attention function of its own, registered under a name of its own, reads which keys each layer may see.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from zoo import IMAGE, VIDEO, build

SEEN: dict[int, torch.Tensor] = {}
"""Layer -> [B, prompt length] bool: which prompt keys it may see."""
SIZES: dict[int, torch.Tensor] = {}
"""Layer -> [B, prompt length]: as how many prompt keys each counts; without it, as one."""


def attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **_: Any) -> Any:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    score = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        score = score + attention_mask
    seen = SEEN.get(getattr(module, "layer_idx", -1)) if getattr(module, "is_causal", False) else None
    if seen is not None:
        hidden = ~seen
        # A token always sees itself: rows of dropped tokens must stay finite, and nobody reads them.
        away = hidden[:, None, None, :].expand(-1, 1, query.shape[2], -1).clone()
        if query.shape[2] == seen.shape[1]:
            away &= ~torch.eye(seen.shape[1], dtype=torch.bool)
        score[..., : seen.shape[1]] = score[..., : seen.shape[1]].masked_fill(away, torch.finfo(score.dtype).min)
    if seen is not None and (sizes := SIZES.get(module.layer_idx)) is not None:
        score[..., : sizes.shape[1]] += sizes.log()[:, None, None]
    out = score.softmax(-1) @ value
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("yardstick", attention)
AttentionMaskInterface.register("yardstick", eager_mask)


@cache
def yardstick(name: str) -> Any:
    """The unpatched model of a family, under that attention function."""
    return build(name, "yardstick")


def alive_text(cache: Any, layer: int, real: torch.Tensor, prompt: Any) -> torch.Tensor:
    """[B, L] bool: false at text that a layer of the cache does not hold. Images are the report's to tell."""
    kept = getattr(cache.layers[layer], "kept", None)
    if kept is None:
        return torch.ones_like(real)
    index = kept.index_BP
    held = torch.zeros(real.shape[0], real.shape[1] + 1, dtype=torch.bool)
    held.scatter_(1, torch.where(index < 0, real.shape[1], index), True)
    held = held[:, :-1] | ~real
    for (row, _), place in prompt.items():
        held[row, place] = True
    return held


def places(inputs: dict[str, torch.Tensor], *tokens: int) -> dict[tuple[int, int], torch.Tensor]:
    """Where each picture's tokens stand, from the placeholders alone: (row, picture) -> [N]. Pictures never touch."""
    out = {}
    for row, ids in enumerate(inputs["input_ids"]):
        spots = torch.isin(ids, torch.tensor(tokens or (IMAGE, VIDEO))).nonzero().flatten()
        runs = torch.tensor_split(spots, (spots.diff() > 1).nonzero().flatten() + 1) if len(spots) else ()
        out |= {(row, i): run for i, run in enumerate(runs)}
    return out


def alive(report: Any, real: torch.Tensor, prompt: Any) -> torch.Tensor:
    """[B, L] bool: false at padding and at image tokens that the last cut dropped. Text is `alive_text`'s to tell."""
    held = real.clone()
    for image in report.images:
        place = prompt[image.row, image.image]
        held[image.row, place] = False
        held[image.row, place[torch.tensor(image.cuts[-1].kept, dtype=torch.long)]] = True
    return held


@contextmanager
def masked(name: str, report: Any, real: torch.Tensor, prompt: Any, depth: int, cache: Any = None) -> Iterator[Any]:
    """The unpatched model of a family, blind to what `report` says was dropped.

    Args:
        report: of the pruned run.
        real: [B, L] padding mask.
        prompt: what `places` says.
        cache: of the pruned run, where text was dropped too: the report counts it, the cache knows which.
    """
    for layer in range(depth):
        seen = torch.ones_like(real, dtype=torch.bool)
        for image in report.images:
            left = torch.arange(image.tokens)
            for cut in image.cuts:
                if not isinstance(cut.at, int) or cut.at <= layer:
                    left = torch.tensor(cut.kept, dtype=torch.long)
            place = prompt[image.row, image.image]
            seen[image.row, place] = False
            seen[image.row, place[left]] = True
        SEEN[layer] = seen if cache is None else seen & alive_text(cache, layer, real, prompt)
    try:
        yield yardstick(name)
    finally:
        SEEN.clear()
        SIZES.clear()
