"""What all learned selectors do alike: float32 whatever the model's precision, on the tokens' device."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foveate.ops.topk import check_k
from foveate.pointer.candidates import Candidates
from foveate.pointer.encoder import Standard
from foveate.pointer.picking import Walk
from foveate.pointer.saved import Saved
from foveate.pointer.soft import Heat, Soft
from foveate.selection import Selection, TokenView


class Learned(Saved):
    """A selector with channel statistics, trained through what `soft` gives."""

    if TYPE_CHECKING:

        @property
        def encoder(self) -> Standard:
            """What holds the channel statistics: a module of its own, or of a part."""
            ...

    @property
    def asks(self) -> bool:
        """Whether the question is read."""
        return bool(self.config.text)

    @property
    def reads(self) -> frozenset[str]:
        """The tokens at its cut, and the question unless it is blind to it."""
        return frozenset({"hidden_BND", "text_BTD"} if self.asks else {"hidden_BND"})

    def fit(self, mean_D: Tensor, std_D: Tensor) -> None:
        """Take over the channel statistics of the tokens to come."""
        self.encoder.fit(mean_D, std_D)

    def candidates(self, view: TokenView) -> Candidates:
        """What it reads of a view."""
        return Candidates.of(view, self.config.features, self.asks)

    def soft(
        self,
        c: Candidates,
        most: int,
        heat: Heat,
        generator: torch.Generator | None = None,
        stop_bias: Tensor | float = 0.0,
    ) -> Soft:
        """The differentiable selection that training sees.

        Args:
            c: the images, padded or not.
            most: picks at most.
            heat: how soft.
            generator: of what is drawn, on the device of the tokens.
            stop_bias: the length pressure as an input: added to the stop's logit.
        """
        with torch.autocast(c.tokens_BND.device.type, enabled=False):
            return self._soft(c, most, heat, generator, stop_bias)

    @abstractmethod
    def _soft(
        self, c: Candidates, most: int, heat: Heat, generator: torch.Generator | None, stop_bias: Tensor | float
    ) -> Soft: ...


class Stepping(Learned):
    """One that picks step after step until it stops; it may keep fewer than k."""

    adaptive: bool = True

    @torch.no_grad()
    def forward(self, view: TokenView, k: int) -> Selection:
        """At most k tokens, at least one; all of them where k is all."""
        check_k(k, n := view.shape[1])
        if k == n:
            return Selection(torch.ones(view.shape, dtype=torch.bool, device=view.device))
        path = self.walk(view, k, self.config.stop_bias)
        return Selection(path.mask(path.standing(self.config, self.config.stop_bias), n))

    def walk(self, view: TokenView, most: int, end: float | None = None) -> Walk:
        """The first `most` picks in order, whatever the stop says of them.

        Args:
            view: what it chooses from.
            most: how many, at most the number of tokens.
            end: a stop bias after whose stop picks may be left out; see `picking.walk`.
        """
        c = self.candidates(view)
        with torch.autocast(view.device.type, enabled=False):
            return self.on(view.device)._walk(c, most, end)

    @abstractmethod
    def _walk(self, c: Candidates, most: int, end: float | None) -> Walk: ...
