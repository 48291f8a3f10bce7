"""Where the visual tokens of a batch of prompts are, image by image. (long: every place of a prompt, found once)

All of this is in host memory. Which tokens of an image a cut kept may be known on the device alone: then the host
counts with stand-ins, as many of the image's places as are left, in order. Where nothing stands between an image's
tokens, that says all there is to know about lengths and about what stands before and behind.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.errors import ModelError
from foveate.geometry.base import Kind, Unit, join
from foveate.hf.families.base import Family
from foveate.ops.host import read
from foveate.ops.merging import sizes
from foveate.selection import Block, Grid


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


def placeholders(ids_BL: Tensor, token: int | None) -> Tensor:
    """Where a placeholder stands."""
    return torch.zeros_like(ids_BL, dtype=torch.bool) if token is None else ids_BL == token


def runs(mask_BL: Tensor) -> list[int]:
    """Lengths of the stretches of True, row by row."""
    edges = torch.nn.functional.pad(mask_BL, (1, 1)).int().diff(dim=1)
    return ((edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]).tolist()


def spread(encoded: Sequence[Encoded], per_row: list[int]) -> list[Encoded]:
    """Repeat encoded images as `generate` repeats prompts for beams or several return sequences.

    Each prompt's group of images stands as often in a row as its prompt does.

    Raises:
        ModelError: the images do not fill the placeholders.
    """
    if sum(e.unit.tokens for e in encoded) == sum(per_row):
        return list(encoded)
    out: list[Encoded] = []
    total = sum(e.unit.tokens for e in encoded)
    times, rest = divmod(sum(per_row), total) if total else (0, 1)
    if rest or times < 2 or len(per_row) % times:
        raise ModelError(f"{sum(per_row)} image placeholders in the prompt, but the images give {total} tokens")
    queue = list(encoded)
    for want in per_row[::times]:
        group: list[Encoded] = []
        while queue and sum(e.unit.tokens for e in group) < want:
            group.append(queue.pop(0))
        out += group * times
    return out


def locate(
    family: Family, ids_BL: Tensor, config: Any, encoded: dict[Kind, Sequence[Encoded]], device: Any
) -> list[Image]:
    """Give every image its places, in the order in which the model fills placeholders.

    Args:
        family: of the model.
        ids_BL: the prompts, in host memory.
        config: of the base model.
        encoded: what was encoded, by kind.
        device: where signals are wanted.

    Raises:
        ModelError: images and placeholders do not match.
    """
    images: list[Image] = []
    for kind, units in encoded.items():
        mask = placeholders(ids_BL, family.token_id(config, kind))
        rows, places = (x.tolist() for x in mask.nonzero(as_tuple=True))
        start = 0
        for e in spread(units, mask.sum(1).tolist()):
            n = e.unit.tokens
            here = rows[start : start + n]
            if len(here) < n or here[0] != here[-1]:
                raise ModelError(
                    f"the {kind} of {n} tokens does not fit its placeholders; check the processor's image token count "
                    "(transformers before 5.18 also mixes up the images of a prompt that beams repeat: update it, or "
                    "use one image a prompt)"
                )
            place = torch.tensor(places[start : start + n])
            start += n
            # To where the language model begins: towers may be on another device.
            signals = {name: s.to(device) for name, s in e.signals.items()}
            image = Image(here[0], 0, kind, e.unit.grid, place, torch.arange(n), signals, (n,), sizes_N=e.sizes_N)
            if e.kept is not None:
                image.alive, image.chosen = torch.arange(len(e.kept)), [(0, e.kept)]
                image.known = False
                if e.kept.device.type == "cpu" or not image.unbroken:
                    image.know()
            images.append(image)
    images = numbered(images)
    return numbered(joined(images)) if family.joins_units else images


def by_runs(family: Family, ids_BL: Tensor, config: Any) -> list[Image]:
    """Every stretch of placeholders is an image."""
    images: list[Image] = []
    kinds: tuple[Kind, ...] = ("image", "video")
    for token, kind in {family.token_id(config, kind): kind for kind in reversed(kinds)}.items():
        for row, places in enumerate(placeholders(ids_BL, token)):
            spots = places.nonzero().flatten()
            ends = (spots.diff() > 1).nonzero().flatten() + 1
            for place in spots.tensor_split(ends) if len(spots) else ():
                n = len(place)
                images.append(Image(row, 0, kind, (Block(0, 1, n),), place, torch.arange(n), {}, (n,)))
    return numbered(images)


def numbered(images: list[Image]) -> list[Image]:
    """In the order of the prompts, counted in each."""
    images.sort(key=lambda i: (i.row, i.first))
    number: dict[int, int] = {}
    for image in images:
        image.number = number.setdefault(image.row, 0)
        number[image.row] += 1
    return images


def anchored(image: Image) -> Tensor:
    """What is alive of an image, the prompt's last token always among it: the next token is predicted from there."""
    if image.anchor is None or bool((image.alive == image.anchor).any()):
        return image.alive
    return torch.cat((image.alive, image.alive.new_tensor([image.anchor]))).sort().values


def joined(images: list[Image]) -> list[Image]:
    """Merge images whose tokens follow each other without a gap."""
    out: list[Image] = []
    for image in images:
        last = out[-1] if out else None
        if last is None or last.row != image.row or int(last.place_N[-1]) + 1 != int(image.place_N[0]):
            out.append(image)
            continue
        n = last.tokens
        if not last.known or not image.known:
            for part in (last, image):
                part.chosen = part.chosen or [(0, part.alive)]
            last.known = False
            last.chosen += [(start + n, kept) for start, kept in image.chosen]
        last.grid = join([Unit(i.kind, i.tokens, i.grid) for i in (last, image)]).grid
        last.alive = torch.cat((last.alive, image.alive + n))
        last.units += image.units
        if (some := image.sizes_N if last.sizes_N is None else last.sizes_N) is not None:
            both = (some.new_ones(i.tokens) if i.sizes_N is None else i.sizes_N for i in (last, image))
            last.sizes_N = torch.cat([*both])
        last.place_N = torch.cat((last.place_N, image.place_N))
        last.signals = {name: torch.cat((s, image.signals[name])) for name, s in last.signals.items()}
    return out


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
