"""Finds the images of a batch of prompts among its ids: every encoded image gets the places that it fills."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.errors import ModelError
from foveate.geometry.base import Kind, Unit, join
from foveate.hf.families.base import Family
from foveate.hf.prompt import Encoded, Image
from foveate.selection import Block


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
