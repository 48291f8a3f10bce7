"""What a selector is trained on: images that a frozen model is asked about, and how wrong its answers become."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from foveate.pointer.candidates import Candidates
from foveate.pointer.noise import Support


@dataclass(frozen=True)
class Seen:
    """What the model receives of a few images before anything is chosen; `material` is the task's own business."""

    candidates: Candidates
    material: Any


class Task(Protocol):
    """A frozen model with questions and right answers."""

    @property
    def size(self) -> int:
        """How many things there are to train on, numbered from 0."""
        ...

    def look(self, numbers: Sequence[int]) -> Seen:
        """The visual tokens of these, as the LLM would receive them; called without gradients."""
        ...

    def loss(self, seen: Seen, tokens_BSD: Tensor, alpha_BS: Tensor, support: Support) -> tuple[Tensor, Tensor]:
        """Mean negative log-likelihood of the right answers' tokens, and the share of them that is likeliest.

        Args:
            seen: from `look`.
            tokens_BSD: what the LLM gets of each image instead of all its tokens, differentiable.
            alpha_BS: how far each of those is kept, for whatever else the model reads of it.
            support: which of the image's tokens those are, and which of them are there at all.
        """
        ...


class Teaching(Task, Protocol):
    """One whose model can be asked what it looks at."""

    def teachers(self) -> list[int]:
        """The layers to ask where a recipe names none."""
        ...

    def gaze(self, numbers: Sequence[int], layers: Sequence[int]) -> Tensor:
        """How much the last token of each prompt attends to each visual token there, [B, N], 0 at padding."""
        ...
