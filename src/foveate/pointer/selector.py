"""Ours: pick tokens one after another, each for what those before it leave uncovered, until a learned stop.

After STS (arXiv 2606.16067, 2609.13804), whose published selector is `stepwise`; this one came of a reading of its
abstract, and chooses better here: coverage is explicit, the stop a hazard, and it stands before the LLM.
docs/methods/sts.md sets the two side by side.
"""

from typing import ClassVar

import torch
from torch import Tensor

from foveate.ops.topk import check_k
from foveate.pointer.candidates import Candidates
from foveate.pointer.config import PointerConfig
from foveate.pointer.picking import Walk, walk
from foveate.pointer.pointing import Pointing
from foveate.pointer.saved import Saved
from foveate.pointer.soft import Heat, Soft, soften
from foveate.selection import Knob, Selection, TokenView


class PointerSelector(Saved):
    """Points at tokens until it stops; a `Selector` that may keep fewer than k.

    It computes in float32 whatever the model's precision, and follows the tokens to their device.
    """

    knob: ClassVar[Knob | None] = Knob("stop_bias", -30.0, 30.0, rising=False)
    adaptive: bool = True

    def __init__(self, config: PointerConfig) -> None:
        super().__init__()
        self.config = config
        self.pointing = Pointing(config)
        self.adaptive = config.stop != "none"

    @property
    def reads(self) -> frozenset[str]:
        """The tokens as the LLM receives them, and the question where it is conditioned on it."""
        return frozenset({"hidden_BND", "text_BTD"} if self.config.text else {"hidden_BND"})

    @property
    def stop_bias(self) -> float | None:
        """What the knob turns: larger keeps fewer. None for a selector that never stops."""
        return self.config.stop_bias if self.adaptive else None

    def forward(self, view: TokenView, k: int) -> Selection:
        """At most k tokens, at least one; all of them where k is all."""
        check_k(k, n := view.shape[1])
        if k == n:
            return Selection(torch.ones(view.shape, dtype=torch.bool, device=view.device))
        path = self.walk(view, k, self.config.stop_bias)
        return Selection(path.mask(path.standing(self.config, self.config.stop_bias), n))

    def walk(self, view: TokenView, most: int, end: float | None = None) -> Walk:
        """The first `most` picks in order, whatever the stop says of them; see `picking.walk`."""
        device = view.device
        c = Candidates.of(view, self.config.features, self.config.text)
        with torch.autocast(device.type, enabled=False):
            return walk(self.on(device).pointing, c, most, end)

    def soft(
        self,
        c: Candidates,
        most: int,
        heat: Heat,
        generator: torch.Generator | None = None,
        stop_bias: Tensor | float = 0.0,
    ) -> Soft:
        """The differentiable selection that training sees."""
        with torch.autocast(c.tokens_BND.device.type, enabled=False):
            return soften(self.pointing, c, most, heat, generator, stop_bias)

    @property
    def encoder(self) -> torch.nn.Module:
        """What holds the channel statistics."""
        return self.pointing.encoder

    def fit(self, mean_D: Tensor, std_D: Tensor) -> None:
        """Take over the channel statistics of the tokens to come."""
        self.pointing.encoder.fit(mean_D, std_D)
