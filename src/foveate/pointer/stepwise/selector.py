"""STS as published: a pointer decoder picks token after token, in view of the picks before and of the question.

arXiv 2606.16067, and 2609.13804 (StepPrune) for groups. It stands before the projector and reads the vision tower's
tokens and the prompt's word embeddings. No code is public. Where the papers are silent, and what we do: tokens are
standardised channel by channel; one decoder layer, pointing with one head; several tokens of a group join the history
each for itself, and their mean asks next; at least one token is kept; in use the stop's logit has a bias, the dial.
docs/methods/sts.md has what each is worth.
"""

from typing import ClassVar

import torch
from torch import Tensor

from foveate.ops.topk import check_k
from foveate.pointer.candidates import Candidates
from foveate.pointer.picking import Walk
from foveate.pointer.saved import Saved
from foveate.pointer.soft import Heat, Soft
from foveate.pointer.stepwise.config import StepwiseConfig
from foveate.pointer.stepwise.pointer import Pointer
from foveate.pointer.stepwise.unroll import unroll
from foveate.pointer.stepwise.walking import walk
from foveate.selection import Knob, Selection, TokenView


class StepwiseSelector(Saved):
    """Points at tokens until it stops; a `Selector` for the encoder cut that may keep fewer than k.

    It computes in float32 whatever the model's precision, and follows the tokens to their device.
    """

    knob: ClassVar[Knob | None] = Knob("stop_bias", -30.0, 30.0, rising=False)
    adaptive: bool = True
    place = "encoder"

    def __init__(self, config: StepwiseConfig) -> None:
        super().__init__()
        self.config = config
        self.pointer = Pointer(config)

    @property
    def reads(self) -> frozenset[str]:
        """The vision encoder's tokens, and the question unless it is blind to it."""
        return frozenset({"hidden_BND", "text_BTD"} if self.config.words else {"hidden_BND"})

    @property
    def encoder(self) -> torch.nn.Module:
        """What holds the channel statistics."""
        return self.pointer.encoder

    @torch.no_grad()
    def forward(self, view: TokenView, k: int) -> Selection:
        """At most k tokens, at least one; all of them where k is all."""
        check_k(k, n := view.shape[1])
        if k == n:
            return Selection(torch.ones(view.shape, dtype=torch.bool, device=view.device))
        path = self.walk(view, k, self.config.stop_bias)
        return Selection(path.mask(path.standing(self.config, self.config.stop_bias), n))

    def walk(self, view: TokenView, most: int, end: float | None = None) -> Walk:
        """The first `most` picks in order, whatever the stop says of them; see `walking.walk`."""
        device = view.device
        c = Candidates.of(view, self.config.features, bool(self.config.words))
        with torch.autocast(device.type, enabled=False):
            return walk(self.on(device).pointer, c, most, end)

    def soft(
        self,
        c: Candidates,
        most: int,
        heat: Heat,
        generator: torch.Generator | None = None,
        stop_bias: Tensor | float = 0.0,
    ) -> Soft:
        """The differentiable selection that training sees; nothing in it is drawn."""
        with torch.autocast(c.tokens_BND.device.type, enabled=False):
            return unroll(self.pointer, c, most, heat, stop_bias)

    def fit(self, mean_D: Tensor, std_D: Tensor) -> None:
        """Take over the channel statistics of the tokens to come."""
        self.pointer.encoder.fit(mean_D, std_D)
