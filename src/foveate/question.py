"""Which of a prompt's tokens ask: the text that selectors may read, by one rule for every engine."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

ENDINGS = ("_token_id", "_token_ids", "_token_index")
"""How configs name what is a mark in a prompt: its beginning and end, padding, what stands for, opens and closes a
picture, a frame or a sound."""
WORDS = ("user_token_id",)
"""Names of that kind for what is a word."""


def marked(configs: Iterable[Any], tokenizer: Any = None) -> Tensor:
    """Ids that mark places and are no text; ascending.

    A config names some of them. Tags of tiles and rows, and of who speaks, are in no config: they are what a tokenizer
    calls special, and are taken for text where none is given.

    Args:
        configs: a model's, its language model's, its generation's; None among them is passed over.
        tokenizer: a Hugging Face tokenizer.
    """
    ids: set[int] = set()
    for config in configs:
        for name, value in vars(config).items() if config is not None else ():
            if name.endswith(ENDINGS) and name not in WORDS:
                ids.update(value if isinstance(value, list | tuple) else [value])
    ids.update(getattr(tokenizer, "all_special_ids", ()))
    ids.update(i for i, t in getattr(tokenizer, "added_tokens_decoder", {}).items() if t.special)
    return torch.tensor(sorted(i for i in ids if isinstance(i, int) and i >= 0), dtype=torch.long)


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
