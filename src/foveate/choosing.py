"""Which tokens stay, for every engine: groups of one shape -> TokenView -> selector -> its answer, held to its word.

An engine says what it holds of each image (or prompt) in plain records; how it found that out, and what it does with
the answer, is its own affair.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveate.choice_checks import check, check_finite, check_kept
from foveate.cut import Cut
from foveate.ops.host import read
from foveate.ops.precise import precise
from foveate.selection import OF_TEXT, Block, Grid, Selection, TokenView


@dataclass(frozen=True)
class Asked:
    """Tokens that a selector is asked about together: those left of one image, or a prompt's candidates.

    Args:
        tokens: how many there were originally, to which a keep is relative.
        left: how many there are now.
        fields: what a TokenView may show of those left, field by field: [left, ...], or [T, D] for the text. Called
            only where the selector reads it.
        grid: where the original tokens lie; None where they lie nowhere.
        prompt: whose image it is, for cuts that count by prompt; None: it is alone.
        name: what to call it where something is wrong with it.
        told: the answer is wanted in host memory.
    """

    tokens: int
    left: int
    fields: Mapping[str, Callable[[], Tensor]]
    grid: Grid | None = None
    prompt: int | None = None
    name: str = ""
    told: bool = False


class Stay(NamedTuple):
    """What stays of one record."""

    number: int
    """Which record of those asked about."""
    kept: Tensor
    """Places among those that were left, ascending: [k]. On the device, where their number is known without asking it;
    in host memory where an adaptive selector had to be asked, or the record says so."""
    mix: Tensor | None
    """Each kept slot as a weighted sum of those that were left: [k, left]; None: as they are."""


def choose(cut: Cut, asked: Sequence[Asked], most: Sequence[int] | None = None) -> list[Stay]:
    """Ask the selector about every record, a batch for each group of equal shape.

    Args:
        cut: where and how many.
        asked: the records.
        most: what `counts` says of them, where it was asked already.

    Returns:
        An answer for each record that loses something.

    Raises:
        SignalError: the selector's answer is not what it must be.
    """
    reads = cut.select.reads
    groups: dict[tuple[int, int, tuple[int, ...], bool, Any], list[int]] = defaultdict(list)
    out: list[Stay] = []
    answers: list[tuple[list[int], int, Selection]] = []
    for i, (one, many) in enumerate(zip(asked, counts(cut, asked) if most is None else most, strict=True)):
        k = count(cut, one.left, one.tokens, many)
        if k is None:
            continue
        if k == 0:
            # Nothing to choose, so nobody is asked; and nothing stays that a dropped token could be mixed into.
            out.append(Stay(i, torch.empty(0, dtype=torch.long), None))
            continue
        t = tuple(len(one.fields[name]()) for name in sorted(reads & OF_TEXT))
        grid = regular(one.grid, one.tokens) if "grid" in reads and one.grid is not None else None
        groups[one.left, k, t, one.left == one.tokens, grid].append(i)
    for (n, k, _, whole, grid), group in groups.items():
        fields: dict[str, Any] = {
            name: (grid if whole else None) if name == "grid" else torch.stack([asked[i].fields[name]() for i in group])
            for name in reads
        }
        told = dict(fields)
        if "hidden_BND" not in told and "hidden_BND" in asked[group[0]].fields:
            # Whoever does not read the states: what stays of them goes on into the model all the same.
            told["hidden_BND"] = torch.stack([asked[i].fields["hidden_BND"]() for i in group])
        check_finite(cut, told, [asked[i].name or f"image {i}" for i in group])
        view = TokenView(**fields)
        with torch.no_grad(), precise(view.device):
            answer = cut.select(view, k)
        check(cut, answer, len(group), n, k)
        answers.append((group, k, answer))
    now = [cut.select.adaptive or any(asked[i].told for i in group) for group, _, _ in answers]
    # All that has to be waited for, at once.
    masks = iter(read(*(answer.keep_BN for (_, _, answer), wait in zip(answers, now, strict=True) if wait)))
    for (group, k, answer), wait in zip(answers, now, strict=True):
        keep_BN: Tensor = next(masks) if wait else answer.keep_BN
        mix_BKN = answer.mix_BKN
        check_kept(cut, keep_BN, None if mix_BKN is None else mix_BKN.shape[1], k)
        if keep_BN.device.type == "cpu":
            kept: Iterable[Tensor] = (keep_N.nonzero().flatten() for keep_N in keep_BN)
        else:
            kept = keep_BN.byte().sort(dim=1, descending=True, stable=True).indices[:, :k]
        for b, (i, kept_K) in enumerate(zip(group, kept, strict=True)):
            out.append(Stay(i, kept_K, None if mix_BKN is None else mix_BKN[b, : len(kept_K)]))
    return out


def counts(cut: Cut, asked: Sequence[Asked]) -> list[int]:
    """How many of each record's original tokens may stay, those of one prompt counted together where the cut says so.

    Raises:
        PlanError: see `Cut.counts`.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, one in enumerate(asked):
        groups[("alone", i) if one.prompt is None or cut.per == "image" else one.prompt].append(i)
    out = [0] * len(asked)
    for group in groups.values():
        sizes = [asked[i].tokens for i in group]
        weights = _weights(cut, [asked[i] for i in group]) if cut.weighs and len(group) > 1 else None
        for i, k in zip(group, cut.counts(sizes, weights), strict=True):
            out[i] = k
    return out


def _weights(cut: Cut, asked: Sequence[Asked]) -> list[float]:
    """What the images of one prompt are worth beside each other, in the eyes of a selector that says so."""
    select: Any = cut.select
    views = []
    for one in asked:
        fields: dict[str, Any] = {name: one.fields[name]()[None] for name in select.weighs}
        check_finite(cut, fields, [one.name])
        views.append(TokenView(**fields))
    tokens = sum(one.tokens for one in asked)
    with torch.no_grad(), precise(views[0].device):
        weights: list[float] = select.image_weights(views, sum(cut.counts([one.tokens for one in asked])) / tokens)
    return weights


def count(cut: Cut, left: int, tokens: int, most: int | None = None) -> int | None:
    """How many of those left may stay; None where the cut changes nothing.

    Adaptive selectors are asked even where fewer are left than may stay: they may keep fewer still. `most` is what
    `counts` says, where that is known.
    """
    k = cut.count(tokens) if most is None else most
    nothing = not left or k >= tokens or (k >= left and not cut.select.adaptive)
    return None if nothing else min(k, left)


def regular(grid: Grid, tokens: int) -> Grid | tuple[int, int, int]:
    """(frames, rows, columns) where blocks are equal, without newlines, and all there is; else the blocks."""
    first = grid[0]
    n = first.rows * first.columns
    same = all(b == Block(i * n, first.rows, first.columns) for i, b in enumerate(grid))
    return (len(grid), first.rows, first.columns) if same and n * len(grid) == tokens else grid
