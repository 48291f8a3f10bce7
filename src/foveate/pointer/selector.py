"""Ours: pick tokens one after another, each for what those before it leave uncovered, until a learned stop.

After STS (arXiv 2606.16067, 2609.13804), whose published selector is `stepwise`; this one came of a reading of its
abstract, and chooses better here: coverage is explicit, the stop a hazard, and it stands before the LLM. It may read
the question as well, and then what a token is worth is taught first by what the model looks at (`train/lesson.py`).
docs/methods/sts.md sets the two side by side.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from foveate.pointer.candidates import Candidates
from foveate.pointer.config import PointerConfig
from foveate.pointer.encoder import Standard
from foveate.pointer.learned import Stepping
from foveate.pointer.picking import Walk, walk
from foveate.pointer.pointing import Pointing
from foveate.pointer.soft import Heat, Soft, soften
from foveate.selection import Knob


class PointerSelector(Stepping):
    """Points at tokens until it stops; a `Selector` for the cut at the input."""

    knob: ClassVar[Knob | None] = Knob("stop_bias", -30.0, 30.0, rising=False)

    def __init__(self, config: PointerConfig) -> None:
        super().__init__()
        self.config = config
        self.pointing = Pointing(config)
        self.adaptive = config.stop != "none"

    @property
    def stop_bias(self) -> float | None:
        """What the knob turns: larger keeps fewer. None for a selector that never stops."""
        return self.config.stop_bias if self.adaptive else None

    @property
    def encoder(self) -> Standard:
        """What holds the channel statistics."""
        return self.pointing.encoder

    def worth(self, c: Candidates) -> Tensor:
        """What each token is worth before anything is picked, [B, N]; -1e9 at padding."""
        return self.pointing.scene(c)[0].score_BN

    def taught(self) -> list[nn.Parameter]:
        """What `worth` is made of."""
        return [*self.pointing.encoder.parameters(), *self.pointing.score.parameters()]

    def _walk(self, c: Candidates, most: int, end: float | None) -> Walk:
        return walk(self.pointing, c, most, end)

    def _soft(
        self, c: Candidates, most: int, heat: Heat, generator: torch.Generator | None, stop_bias: Tensor | float
    ) -> Soft:
        return soften(self.pointing, c, most, heat, generator, stop_bias)
