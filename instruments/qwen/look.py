"""What the second instrument sees of a few scenes: as `foveate.tiny.look`, by the means it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.tiny.inputs import to_pixels
from foveate.tiny.look import Look
from foveate.tiny.processing import build_tokenizer
from foveate.tiny.vocabulary import GRID
from foveate.tiny.world import Scene
from instruments.qwen.anatomy import FRAME, MERGE, SIDE
from instruments.qwen.tower import merged, received, tower_states

_TOKENIZER = build_tokenizer()


@torch.no_grad()
def look(model: Any, scenes: Sequence[Scene]) -> Look:
    """Run the vision side once for all of `scenes`.

    In place of [CLS] attention: what a visual token's patches receive from all patches in the last block, which sees
    the whole picture. In place of the joint space: the best cosine between a visual token and the question's words.
    """
    visual = model.model.visual
    states = tower_states(visual, to_pixels(np.stack([np.asarray(s.image) for s in scenes])))
    image = merged(visual, states[-1], GRID)
    asked = [list(s.questions) for s in scenes]
    owner = torch.tensor([i for i, questions in enumerate(asked) for _ in questions])
    questions = [q for each in asked for q in each]
    words = model.model.language_model.embed_tokens.weight
    tokens = F.normalize(image.float(), dim=-1)
    relevance = [
        (tokens[o] @ F.normalize(words[ids].float(), dim=-1).T).amax(-1)
        for o, ids in zip(owner.tolist(), map(_words, (q.text for q in questions)), strict=True)
    ]
    attention = received(visual, states[-2]).view(-1, SIDE, MERGE, SIDE, MERGE).mean((2, 4)).flatten(1)
    return Look(
        asked=asked,
        image=image,
        cls=attention,
        relevance=torch.stack(relevance),
        things=_covered([[t.box for t in s.layout.things] for s in scenes]),
        needed=_covered([q.boxes for q in questions]),
        owner=owner,
    )


def _covered(boxes: Sequence[Sequence[tuple[int, int, int, int]]]) -> Tensor:
    return torch.from_numpy(np.stack([FRAME.covered(each) for each in boxes]))


def _words(text: str) -> list[int]:
    ids: list[int] = _TOKENIZER(text.rstrip("?. "), add_special_tokens=False)["input_ids"]
    return ids
