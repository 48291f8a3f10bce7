"""A batch of prompts: where each one's images stand, what is left of them, and which of its tokens are what.

All of this is in host memory. Which tokens of an image a cut kept may be known on the device alone: then the host
counts with stand-ins, as many of the image's places as are left, in order. Where nothing stands between an image's
tokens, that says all there is to know about lengths and about what stands before and behind.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.geometry.base import Kind, Unit
from foveate.ops.host import read
from foveate.ops.merging import sizes
from foveate.selection import Grid


@dataclass(frozen=True)
class Encoded:
    """One image of an encoder call: its unit, its tower signals token by token, and what an encoder cut kept of it."""

    unit: Unit
    signals: dict[str, Tensor] = field(default_factory=dict)
    kept: Tensor | None = None
    """Places of what stays, ascending, wherever they are known; None where no encoder cut chose."""
    mix: Tensor | None = None
    """By which weights it merged, where attention is to know how many tokens each stands for."""

    @property
    def sizes_N(self) -> Tensor | None:
        """How many tokens each of the original ones stands for, 1 where it is gone; None: one each."""
        if self.mix is None or self.kept is None:
            return None
        one_N = self.mix.new_ones(self.unit.tokens, dtype=torch.float32)
        return one_N.index_put((self.kept.to(one_N.device),), sizes(self.mix, one_N))


@dataclass
class Image:
    """One image of one prompt."""

    row: int
    number: int
    kind: Kind
    grid: Grid
    place_N: Tensor
    """Position in the prompt of each original token."""
    alive: Tensor
    """Original indices of the tokens that are still there, ascending; or stand-ins, where not `known`."""
    signals: dict[str, Tensor]
    units: tuple[int, ...] = ()
    """Tokens of the encoder's units that make it up: one, or InternVL's tiles."""
    anchor: int | None = None
    """Index of the prompt's last token, where that is one of this image's: it always stays, outside the count."""
    cuts: list[tuple[Any, int, int, Callable[[], Tensor]]] = field(default_factory=list)
    """(place, asked, how many left, their original indices), one a cut."""
    chosen: list[tuple[int, Tensor]] = field(default_factory=list)
    """What an encoder cut kept of each unit, on the device, and where the unit begins; empty where known."""
    known: bool = True
    sizes_N: Tensor | None = None
    """As `Encoded` has it."""

    @property
    def tokens(self) -> int:
        """Original count."""
        return len(self.place_N)

    @property
    def first(self) -> int:
        """Position of the first token."""
        return int(self.place_N[0])

    @property
    def unbroken(self) -> bool:
        """Whether nothing stands between its tokens."""
        return int(self.place_N[-1]) - self.first == self.tokens - 1

    def know(self) -> None:
        """Ask the device what an encoder cut kept."""
        if not self.known:
            self.alive = torch.cat([read(kept)[0] + start for start, kept in self.chosen])
            self.chosen, self.known = [], True


@dataclass
class Prompt:
    """A batch of prompts as the LLM is given them in this forward pass (without what the cache holds).

    Shape letters: B prompts of L positions.
    """

    images: list[Image]
    real_BL: Tensor
    """Not padding."""
    visual_BL: Tensor
    question_BL: Tensor
    """Text that asks, as far as can be told: what selectors may read."""
    loose_BL: Tensor
    """Text that cuts over the prompt may drop: never template, special ids, or the last token."""
    last_B: Tensor
    """Position of each prompt's last real token."""
    alive_BL: Tensor
    """What is still there."""

    @property
    def open_BL(self) -> Tensor:
        """What a cut over the whole prompt chooses among, and counts by."""
        return self.visual_BL | self.loose_BL


def anchored(image: Image) -> Tensor:
    """What is alive of an image, the prompt's last token always among it: the next token is predicted from there."""
    if image.anchor is None or bool((image.alive == image.anchor).any()):
        return image.alive
    return torch.cat((image.alive, image.alive.new_tensor([image.anchor]))).sort().values


def candidates(prompt: Prompt, row: int) -> Tensor:
    """Places of a prompt that a cut over the whole prompt may drop, ascending."""
    places = (prompt.alive_BL & prompt.open_BL)[row].nonzero().flatten()
    return places[places != prompt.last_B[row]]


def last_real(real_BL: Tensor) -> Tensor:
    """Position of the last real token of each row."""
    return real_BL.shape[1] - 1 - real_BL.flip(1).long().argmax(1)


def without_last(real_BL: Tensor, n_B: Tensor) -> Tensor:
    """The mask without the last n real tokens of each row."""
    return real_BL & (real_BL.flip(1).long().cumsum(1).flip(1) > n_B.unsqueeze(1))


def squeeze_index(alive_BL: Tensor) -> tuple[Tensor, bool]:
    """Places that stay, in order, evened out on the left: [B, M], -1 for filler; and whether there is any.

    On the left, because the next token is appended on the right, whatever a row's length.
    """
    held = alive_BL.sum(1).tolist()
    most = max(held)
    length = alive_BL.shape[1]
    place = torch.arange(length, device=alive_BL.device).expand_as(alive_BL)
    return torch.where(alive_BL, place, -1).sort(1).values[:, length - most :], min(held) < most
