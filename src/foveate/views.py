"""From a running cut to what selectors see, and back: groups of images of one shape, so that selectors stay batched."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.cut import Cut
from foveate.errors import SignalError
from foveate.hf.prompt import Image, Prompt
from foveate.selection import Block, Grid, Selection, TokenView

TOWER = {"cls_attn_BN": "cls_attn", "cls_cos_BN": "cls_cos", "encoder_BNC": "encoder", "keys_BNC": "keys"}
ROW_FIELDS = frozenset({"hidden_BND", "text_BTD", "text_attn_BN", "text_BN"})


def choose(
    cut: Cut,
    images: list[Image],
    hidden: Callable[[Image], Tensor],
    text: Callable[[Image], Tensor],
    attention: Callable[[Image], Tensor],
) -> list[tuple[Image, Tensor, Tensor | None]]:
    """Ask the selector about every image, a batch for each group of equal shape.

    Args:
        cut: the cut.
        images: those with something alive.
        hidden: states of an image's surviving tokens, [n, D].
        text: embeddings of its prompt's question, [T, D].
        attention: LLM attention its surviving tokens receive, [n].

    Returns:
        (image, kept places among its survivors, mixing weights [k, n] or None) for each image that loses something.
    """
    reads = cut.select.reads
    groups: dict[tuple[int, int, int, bool, Any], list[Image]] = defaultdict(list)
    out: list[tuple[Image, Tensor, Tensor | None]] = []
    for image in images:
        n = len(image.alive)
        k = _count(cut, n, image.tokens)
        if k is None:
            continue
        if k == 0:
            # Nothing to choose, so nobody is asked; and nothing stays that a dropped token could be mixed into.
            out.append((image, image.alive.new_empty(0), None))
            continue
        t = len(text(image)) if "text_BTD" in reads else 0
        grid = regular(image.grid, image.tokens) if "grid" in reads else None
        groups[n, k, t, n == image.tokens, grid].append(image)
    for (_, k, _, whole, grid), group in groups.items():
        get: dict[str, Callable[[Image], Any]] = {"hidden_BND": hidden, "text_BTD": text, "text_attn_BN": attention}
        fields: dict[str, Any] = {
            name: (grid if whole else None)
            if name == "grid"
            else torch.stack([get.get(name, _tower(name))(i) for i in group])
            for name in reads
        }
        with torch.no_grad():
            answer = cut.select(TokenView(**fields), k)
        check(cut, answer, len(group), len(group[0].alive), k)
        for b, image in enumerate(group):
            kept = answer.keep_BN[b].nonzero().flatten()
            mix = None if answer.mix_BKN is None else answer.mix_BKN[b, : len(kept)]
            out.append((image, kept, mix))
    return out


def _count(cut: Cut, n: int, original: int) -> int | None:
    """How many of n survivors may stay; None where the cut changes nothing.

    Adaptive selectors are asked even where fewer are left than may stay: they may keep fewer still.
    """
    k = cut.count(original)
    nothing = not n or k >= original or (k >= n and not cut.select.adaptive)
    return None if nothing else min(k, n)


def regular(grid: Grid, tokens: int) -> Grid | tuple[int, int, int]:
    """(frames, rows, columns) where blocks are equal, without newlines, and all there is; else the blocks."""
    first = grid[0]
    n = first.rows * first.columns
    same = all(b == Block(i * n, first.rows, first.columns) for i, b in enumerate(grid))
    return (len(grid), first.rows, first.columns) if same and n * len(grid) == tokens else grid


def _tower(name: str) -> Callable[[Image], Tensor]:
    def read(image: Image) -> Tensor:
        signal = image.signals[TOWER[name]]
        return signal[image.alive.to(signal.device)]

    return read


def check(cut: Cut, answer: Selection, b: int, n: int, k: int) -> None:
    """Hold a selector to its word.

    Raises:
        SignalError: wrong shape, more than k, none, or fewer than k without being adaptive.
    """
    who = f"{type(cut.select).__name__} at {cut.at!r}"
    if not isinstance(answer, Selection):
        raise SignalError(f"{who} answered a {type(answer).__name__}; it must answer a Selection")
    if answer.keep_BN.shape != (b, n) or answer.keep_BN.dtype != torch.bool:
        raise SignalError(
            f"{who} answered {tuple(answer.keep_BN.shape)} {answer.keep_BN.dtype}; keep_BN must be bool of shape "
            f"{(b, n)}"
        )
    counts = answer.counts_B
    low, high = int(counts.min()), int(counts.max())
    if high > k or low < 1 or (low < k and not cut.select.adaptive):
        some = "1 to " if cut.select.adaptive else ""
        raise SignalError(f"{who} kept {low} to {high} of {n} tokens; it must keep {some}{k}")
    if answer.mix_BKN is not None and answer.mix_BKN.shape[:1] + answer.mix_BKN.shape[2:] != (b, n):
        raise SignalError(f"{who} mixes by {tuple(answer.mix_BKN.shape)}; mix_BKN must be of shape ({b}, kept, {n})")
    if answer.mix_BKN is not None and answer.mix_BKN.shape[1] < high:
        raise SignalError(
            f"{who} keeps {high} tokens but mixes {answer.mix_BKN.shape[1]}; each kept slot needs its weights"
        )


def candidates(prompt: Prompt, row: int) -> Tensor:
    """Places of a prompt that a cut over the whole prompt may drop, ascending."""
    places = (prompt.alive_BL & prompt.open_BL)[row].nonzero().flatten()
    return places[places != prompt.last_B[row]]


def choose_in_prompt(
    cut: Cut,
    prompt: Prompt,
    hidden: Callable[[int, Tensor], Tensor],
    text: Callable[[int], Tensor],
    attention: Callable[[int, Tensor], Tensor],
) -> list[tuple[int, Tensor]]:
    """As `choose`, for cuts over the whole prompt: (row, places that stay) for each prompt that loses something.

    Raises:
        SignalError: the selector mixes tokens.
    """
    out: list[tuple[int, Tensor]] = []
    for row in sorted({i.row for i in prompt.images}):
        place = candidates(prompt, row)
        k = _count(cut, len(place), int(prompt.open_BL[row].sum()))
        if k is None:
            continue
        if k == 0:
            out.append((row, place[:0]))
            continue
        fields: dict[str, Any] = {
            "hidden_BND": lambda p=place, r=row: hidden(r, p)[None],
            "text_BTD": lambda r=row: text(r)[None],
            "text_attn_BN": lambda p=place, r=row: attention(r, p)[None],
            "text_BN": lambda p=place, r=row: prompt.loose_BL[r, p][None],
        }
        with torch.no_grad():
            answer = cut.select(TokenView(**{name: fields[name]() for name in cut.select.reads}), k)
        check(cut, answer, 1, len(place), k)
        if answer.mix_BKN is not None:
            raise SignalError(f'{type(cut.select).__name__} mixes tokens; over="prompt" can only keep or drop')
        out.append((row, place[answer.keep_BN[0]]))
    return out
