"""Asks an instrument its questions under a choice of visual tokens, made at the input of the decoder.

Kept tokens keep their positions. The prefix of an image is shared between its questions wherever the choice does not
depend on the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.tiny import picks
from foveate.tiny.branches import LLAVA, Frame, right_answers
from foveate.tiny.checkpoint import load, load_joint, verify
from foveate.tiny.look import Look, look
from foveate.tiny.world import Scene

BUDGETS = {"22.2%": 2 / 9, "11.1%": 1 / 9, "5.6%": 1 / 18}
"""Shares of the visual tokens."""


Opened = tuple[Any, Callable[[Sequence[Scene]], Look], Frame]
"""A model, how it sees scenes, and its prompt."""


def instrument(folder: Path | None, dtype: torch.dtype) -> Opened:
    """The model in `folder`, or the embedded one.

    Raises:
        FoveateError: a file is missing or damaged.
    """
    if folder is not None:
        verify(folder)
    model, _ = load(dtype=dtype, folder=folder)
    clip = load_joint(model, folder)
    return model, lambda scenes: look(model, clip, scenes), LLAVA


class Asker:
    """Asks the questions of a batch of scenes under one choice of visual tokens; answers are bool, one a question."""

    def __init__(self, model: Any, rng: np.random.Generator, frame: Frame = LLAVA) -> None:
        self.model, self.rng, self.frame = model, rng, frame

    def methods(self) -> dict[str, Callable[[Look, int], Tensor]]:
        """Name to choice, each (what was seen, tokens to keep) -> right or wrong."""
        return {
            "random": lambda s, k: self.each(s, torch.stack([self._any(k) for _ in s.questions])),
            "uniform": lambda s, k: self.some(s, picks.uniform(k, self.frame.tokens).expand(len(s.image), -1)),
            "pool": lambda s, k: self.given(s, *picks.pooled(s.image, k)),
            "fastervlm": lambda s, k: self.some(s, picks.top(s.cls, k)),
            "divprune": lambda s, k: self.some(s, picks.farthest(s.image, k)),
            "text": lambda s, k: self.each(s, picks.top(s.relevance, k)),
            "oracle": lambda s, k: self.each(
                s, torch.stack([picks.oracle(q, k, self.rng, self.frame) for q in s.questions])
            ),
        }

    def chosen(self, seen: Look) -> dict[str, Tensor]:
        """Every choice at every budget, by `method budget`."""
        return {
            f"{method} {name}": ask(seen, round(share * self.frame.tokens))
            for name, share in BUDGETS.items()
            for method, ask in self.methods().items()
        }

    def whole(self, seen: Look, image: Tensor) -> Tensor:
        """All tokens of `image`, which need not be the right one."""
        return self.given(seen, image, torch.arange(self.frame.tokens).expand(len(image), -1))

    def given(self, seen: Look, image: Tensor, kept: Tensor) -> Tensor:
        """These tokens at these places, for all questions of a scene."""
        with torch.no_grad():
            return right_answers(self.model, image, kept, seen.asked, self.frame)

    def some(self, seen: Look, kept: Tensor) -> Tensor:
        """The same tokens for all questions of a scene; kept is scenes x K."""
        return self.given(seen, _take(seen.image, kept), kept)

    def each(self, seen: Look, kept: Tensor) -> Tensor:
        """Other tokens for each question; kept is questions x K."""
        with torch.no_grad():
            image = _take(seen.image[seen.owner], kept)
            return right_answers(self.model, image, kept, [[q] for q in seen.questions], self.frame)

    def _any(self, k: int) -> Tensor:
        return torch.from_numpy(np.sort(self.rng.permutation(self.frame.tokens)[:k]))


def _take(image: Tensor, kept: Tensor) -> Tensor:
    return image.gather(1, kept[..., None].expand(-1, -1, image.shape[-1]))
