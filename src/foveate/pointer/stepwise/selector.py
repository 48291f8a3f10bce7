"""STS as published: a pointer decoder picks token after token, in view of the picks before and of the question.

arXiv 2606.16067, and 2609.13804 (StepPrune) for groups. It stands before the projector and reads the vision tower's
tokens and the prompt's word embeddings. No code is public. Where the papers are silent, and what we do: tokens are
standardised channel by channel; one decoder layer, pointing with one head; several tokens of a group join the history
each for itself, and their mean asks next; at least one token is kept; in use the stop's logit has a bias, the dial.
docs/methods/sts.md has what each is worth.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from foveate.pointer.candidates import Candidates
from foveate.pointer.encoder import Standard
from foveate.pointer.learned import Stepping
from foveate.pointer.picking import Walk
from foveate.pointer.soft import Heat, Soft
from foveate.pointer.stepwise.config import StepwiseConfig
from foveate.pointer.stepwise.pointer import Pointer
from foveate.pointer.stepwise.unroll import unroll
from foveate.pointer.stepwise.walking import walk
from foveate.selection import Knob


class StepwiseSelector(Stepping):
    """Points at tokens until it stops; a `Selector` for the encoder cut."""

    knob: ClassVar[Knob | None] = Knob("stop_bias", -30.0, 30.0, rising=False)
    place: ClassVar[Literal["encoder", "input"]] = "encoder"

    def __init__(self, config: StepwiseConfig) -> None:
        super().__init__()
        self.config = config
        self.pointer = Pointer(config)

    @property
    def asks(self) -> bool:
        """Whether the question is read."""
        return bool(self.config.words)

    @property
    def encoder(self) -> Standard:
        """What holds the channel statistics."""
        return self.pointer.encoder

    def _walk(self, c: Candidates, most: int, end: float | None) -> Walk:
        return walk(self.pointer, c, most, end)

    def _soft(
        self, c: Candidates, most: int, heat: Heat, _generator: torch.Generator | None, stop_bias: Tensor | float
    ) -> Soft:
        """Nothing in it is drawn."""
        return unroll(self.pointer, c, most, heat, stop_bias)
