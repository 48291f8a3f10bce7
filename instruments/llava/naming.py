"""The loss that names: a projected patch should lie near the words for what it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.tiny.branches import TOKENS
from foveate.tiny.vocabulary import COLORS, GRID, KINDS, LETTERS, PATTERNS, PLACES, WORDS
from instruments.llava.labels import IGNORE, NONE_COLOR, NONE_KIND, NONE_LETTER, Labels

_IDS = {
    name: torch.tensor([WORDS.index(w) for w in words])
    for name, words in (
        ("kind", KINDS),
        ("color", tuple(COLORS)),
        ("letter", LETTERS),
        ("place", PLACES),
        ("pattern", PATTERNS),
    )
}
_CELL = torch.tensor([(i // GRID // 8) * 3 + i % GRID // 8 for i in range(TOKENS)])


def naming_loss(image: Tensor, words: Tensor, labels: Sequence[Labels], kept: Tensor, placed: bool = True) -> Tensor:
    """A projected patch should lie near the words for what it shows and where it is: kind, colour, letter, place.

    A patch of a distractor should lie near the words for its pattern and its two colours.

    It is LLaVA's alignment stage in one line, and it stays on as a side condition. image B x K x D, words V x D. Where
    tokens cannot know their place yet, they are not `placed`.
    """
    flat = F.rms_norm(image.float(), image.shape[-1:])
    take = lambda value: torch.as_tensor(np.stack(value)).flatten(1, 2).gather(1, kept)  # noqa: E731
    kind, color = take([each.kind for each in labels]), take([each.color for each in labels])
    letters = [take([each.letters[..., i] for each in labels]) for i in range(3)]
    shown = (kind >= 0) & (kind < NONE_KIND)
    say = lambda name: flat[shown] @ words[_IDS[name]].float().T  # noqa: E731
    loss = F.cross_entropy(say("kind"), kind[shown])
    loss = loss + F.cross_entropy(say("color"), color[shown].where(color[shown] < NONE_COLOR, IGNORE))
    if placed:
        loss = loss + F.cross_entropy(say("place"), _CELL.to(kept.device)[kept][shown])
    letter = say("letter")
    for place in letters:
        seen = place[shown]
        seen = seen.where(seen < NONE_LETTER, IGNORE)
        if bool((seen >= 0).any()):
            loss = loss + F.cross_entropy(letter, seen, ignore_index=IGNORE) / 3
    pattern = take([each.pattern for each in labels])
    filled = pattern >= 0
    if bool(filled.any()):
        tints = torch.as_tensor(np.stack([each.tints for each in labels])).flatten(1, 2)
        tints = tints.gather(1, kept[..., None].expand(-1, -1, tints.shape[-1]))
        for name, target in (("pattern", pattern[filled]), ("color", tints[filled])):
            loss = loss + F.cross_entropy(flat[filled] @ words[_IDS[name]].float().T, target)
    return loss
