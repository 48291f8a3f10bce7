"""What stands where in a scene: things, which questions are about, and distractors, which are no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveate.tiny.vocabulary import COLORS, DIRECTIONS, LETTERS, PATTERNS, PLATE, SHAPES, SIZE, UNSEEN

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""

_THINGS = {"simple": (1, 3), "medium": (5, 9), "crowded": (14, 24), "cluttered": (2, 5)}
_SIDES = {"simple": (18, 46), "medium": (16, 34), "crowded": (15, 23), "cluttered": (16, 34)}
_DISTRACTORS = {"simple": (0, 2), "medium": (2, 5), "crowded": (4, 9), "cluttered": (18, 28)}
_DISTRACTOR_SIDES = {"simple": (10, 34), "medium": (10, 34), "crowded": (10, 34), "cluttered": (12, 22)}
_PLATES = {"simple": (0, 1), "medium": (0, 2), "crowded": (1, 3), "cluttered": (0, 2)}
_REPEATED = {"simple": (0, 1), "medium": (0, 2), "crowded": (2, 4), "cluttered": (0, 1)}
_MARGIN = 3
_MOST_OF_A_KIND = 4


@dataclass(frozen=True)
class Thing:
    """A shape, a letter or a plate; `code` holds a plate's three letters."""

    kind: str
    color: str
    x: int
    y: int
    width: int
    height: int
    code: str = ""

    @property
    def box(self) -> Box:
        """Where it is drawn."""
        return (self.x, self.y, self.x + self.width, self.y + self.height)

    @property
    def center(self) -> tuple[float, float]:
        """x and y of its box's middle, in pixels."""
        return (self.x + self.width / 2, self.y + self.height / 2)

    @property
    def letter_boxes(self) -> tuple[Box, ...]:
        """Where a plate's letters are drawn; empty for other kinds."""
        if not self.code:
            return ()
        unit = self.height / 11
        y0, y1 = self.y + round(2 * unit), self.y + round(9 * unit)
        pitch = self.width / 20
        starts = [self.x + round((2 + 6 * i - 0.5) * pitch) for i in range(3)]
        return tuple((x, y0, x + round(5 * pitch), y1) for x in starts)


@dataclass(frozen=True)
class Distractor:
    """A textured patch in two palette colours: it draws the eye and answers nothing."""

    pattern: str
    colors: tuple[str, str]
    x: int
    y: int
    width: int
    height: int

    @property
    def box(self) -> Box:
        """Where it is drawn."""
        return (self.x, self.y, self.x + self.width, self.y + self.height)


@dataclass(frozen=True)
class Layout:
    """A scene before it is painted."""

    tier: str
    things: tuple[Thing, ...]
    distractors: tuple[Distractor, ...]


def lay_out(rng: np.random.Generator, tier: str) -> Layout:
    """Draw a scene of `tier`. Things never touch; a thing that finds no room is left out."""
    like = UNSEEN.get(tier, tier)
    kinds = _draw_kinds(rng, like)
    # A skewed draw of colours, so that even a crowd has colours that occur once and can be asked for.
    weights = np.array([6, 5, 4, 3, 2, 1, 1, 1] if like == "crowded" else [1] * 8, dtype=float)
    weights = rng.permutation(weights / weights.sum())
    plate_colors = [str(c) for c in rng.permutation(list(COLORS))]
    things: list[Thing] = []
    for kind in kinds:
        color = plate_colors.pop() if kind == PLATE else str(rng.choice(list(COLORS), p=weights))
        width, height = _measure(rng, like, kind)
        spot = _place(rng, width, height, [t.box for t in things], beside=things if rng.random() < 0.5 else ())
        if spot is not None:
            code = "".join(rng.choice(LETTERS, size=3, replace=True)) if kind == PLATE else ""
            things.append(Thing(kind, color, spot[0], spot[1], width, height, code))
    return Layout(tier, tuple(things), _draw_distractors(rng, like, [t.box for t in things]))


def _between(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


def _draw_kinds(rng: np.random.Generator, tier: str) -> list[str]:
    n = _between(rng, _THINGS[tier])
    kinds = [PLATE] * min(n, _between(rng, _PLATES[tier]))
    shapes = [str(s) for s in rng.permutation(SHAPES)]
    for _ in range(_between(rng, _REPEATED[tier])):
        kinds += [shapes.pop()] * _between(rng, (2, _MOST_OF_A_KIND))
    kinds = kinds[:n]
    single = [str(s) for s in rng.permutation([*shapes, *LETTERS])]
    kinds += single[: n - len(kinds)]
    head = kinds.count(PLATE)  # plates are widest: they look for room first
    return kinds[:head] + [str(k) for k in rng.permutation(kinds[head:])]


def _measure(rng: np.random.Generator, tier: str, kind: str) -> tuple[int, int]:
    if kind == PLATE:
        unit = rng.uniform(1.7, 2.5) if tier != "crowded" else rng.uniform(1.6, 2.1)
        return round(20 * unit), round(11 * unit)
    low, high = _SIDES[tier]
    side = round(low + (high - low) * float(rng.random()) ** 1.5)
    if kind in LETTERS:
        side = max(side, 17)
        return round(side * 0.75), side
    return side, side


def _place(
    rng: np.random.Generator, width: int, height: int, taken: Sequence[Box], beside: Sequence[Thing] = ()
) -> tuple[int, int] | None:
    """A free spot, tried 60 times: next to one of `beside` if there is any, so that relations are worth asking."""
    for attempt in range(60):
        x, y = _between(rng, (2, SIZE - width - 2)), _between(rng, (2, SIZE - height - 2))
        if beside and attempt < 30:
            anchor = beside[int(rng.integers(len(beside)))]
            dx, dy = list(DIRECTIONS.values())[int(rng.integers(4))]
            gap = _between(rng, (5, 10))
            cx, cy = anchor.center
            cx += dx * ((anchor.width + width) / 2 + gap) + int(rng.integers(-2, 3))
            cy += dy * ((anchor.height + height) / 2 + gap) + int(rng.integers(-2, 3))
            x, y = round(cx - width / 2), round(cy - height / 2)
        inside = 2 <= x <= SIZE - width - 2 and 2 <= y <= SIZE - height - 2
        if inside and not any(_touch((x, y, x + width, y + height), box) for box in taken):
            return x, y
    return None


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] + _MARGIN and b[0] < a[2] + _MARGIN and a[1] < b[3] + _MARGIN and b[1] < a[3] + _MARGIN


def _draw_distractors(rng: np.random.Generator, tier: str, taken: list[Box]) -> tuple[Distractor, ...]:
    found: list[Distractor] = []
    for _ in range(_between(rng, _DISTRACTORS[tier])):
        width, height = (_between(rng, _DISTRACTOR_SIDES[tier]) for _ in range(2))
        spot = _place(rng, width, height, taken)
        if spot is None:
            continue
        colors = rng.choice(list(COLORS), size=2, replace=False)
        pattern = str(rng.choice(PATTERNS))
        found.append(Distractor(pattern, (str(colors[0]), str(colors[1])), spot[0], spot[1], width, height))
        taken = [*taken, found[-1].box]
    return tuple(found)
