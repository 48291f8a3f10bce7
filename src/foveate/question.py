"""Which of a prompt's tokens ask: the text that selectors may read, by one rule for every engine."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MARKERS = ("bos_token_id", "eos_token_id", "pad_token_id", "vision_start_token_id", "vision_end_token_id")


def marked(configs: Iterable[Any]) -> Tensor:
    """Ids that mark places and are no text: BOS, EOS, padding, vision markers; ascending."""
    ids: set[int] = set()
    for config in configs:
        for name in MARKERS:
            value = getattr(config, name, None)
            ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return torch.tensor(sorted(ids), dtype=torch.long)


def question(real_BL: Tensor, visual_BL: Tensor, special_BL: Tensor, tail: int) -> tuple[Tensor, Tensor]:
    """The text that asks, and the text that may be dropped: [B, L] each.

    Both are not visual, not special, and not the `tail` tokens that close the template. Text before the first image is
    the system prompt and the speaker's name and never dropped; but where nothing else is left the question stood there,
    and is read. Where that too is empty, all text that is not special is read.
    """
    text = real_BL & ~visual_BL & ~special_BL
    from_end = real_BL.flip(1).long().cumsum(1).flip(1)
    after_image = visual_BL.long().cumsum(1) > 0
    loose = best = text & (from_end > tail) & after_image
    for fallback in (text & (from_end > tail), text):
        best = torch.where(best.any(1, keepdim=True), best, fallback)
    return best, loose
