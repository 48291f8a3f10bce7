"""Every question a layout can answer without ambiguity, with the boxes of what the answer needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from foveate.tiny.layout import Box, Layout, Thing
from foveate.tiny.neighbours import neighbour
from foveate.tiny.vocabulary import (
    COLORS,
    DIRECTIONS,
    KINDS,
    LETTERS,
    PLACES,
    PLATE,
    PLURALS,
    QUESTION_KINDS,
    SHAPES,
    SIZE,
    article,
    noun,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question of a scene.

    `answer` is one word, or three letters with spaces between. `boxes` are pixel boxes of all that the answer needs;
    for "no" and for a count, the things that decide it; empty where nothing of the kind is in the image.
    """

    text: str
    answer: str
    kind: str
    tier: str
    boxes: tuple[Box, ...]


def ask(layout: Layout, rng: np.random.Generator, limit: int) -> tuple[Question, ...]:
    """At most `limit` questions, one of each kind in turn, with answers kept level (yes and no, counts 0 to 4)."""
    found = {kind: build(layout, rng) for kind, build in _BUILDERS.items()}
    queues = {kind: _shuffled(rng, qs) for kind, qs in found.items() if kind not in ("exist", "count")}
    queues["exist"] = _level(rng, found["exist"], {"yes": 1.0, "no": 1.0})
    queues["count"] = _level(rng, found["count"], {"0": 0.8, "1": 0.6, "2": 1.0, "3": 1.2, "4": 1.4})
    asked: list[Question] = []
    while len(asked) < limit and any(queues.values()):
        for kind in rng.permutation(QUESTION_KINDS):
            if queues[str(kind)] and len(asked) < limit:
                asked.append(queues[str(kind)].pop())
    return tuple(asked)


def _shuffled(rng: np.random.Generator, questions: Sequence[Question]) -> list[Question]:
    return [questions[i] for i in rng.permutation(len(questions))]


def _level(rng: np.random.Generator, questions: list[Question], weights: dict[str, float]) -> list[Question]:
    """A queue (taken from its end) in which each answer comes up by weight, however many questions have it."""
    by_answer: dict[str, list[Question]] = defaultdict(list)
    for question in _shuffled(rng, questions):
        by_answer[question.answer].append(question)
    queue: list[Question] = []
    while any(by_answer.values()):
        answers = [a for a in sorted(by_answer) if by_answer[a]]
        w = np.array([weights[a] for a in answers])
        queue.append(by_answer[str(rng.choice(answers, p=w / w.sum()))].pop())
    return queue[::-1]


def _color(layout: Layout, rng: np.random.Generator) -> list[Question]:
    return [
        _question(layout, "color", f"what color is the {noun(t.kind)}?", t.color, [t])
        for t in layout.things
        if _alone(layout, kind=t.kind)
    ]


def _shape(layout: Layout, rng: np.random.Generator) -> list[Question]:
    shapes = [t for t in layout.things if t.kind in SHAPES]
    return [
        _question(layout, "shape", f"what shape is {t.color}?", t.kind, [t])
        for t in shapes
        if sum(o.color == t.color for o in shapes) == 1
    ]


def _letter(layout: Layout, rng: np.random.Generator) -> list[Question]:
    letters = [t for t in layout.things if t.kind in LETTERS]
    return [
        _question(layout, "letter", f"what letter is {t.color}?", t.kind, [t])
        for t in letters
        if sum(o.color == t.color for o in letters) == 1
    ]


def _exist(layout: Layout, rng: np.random.Generator) -> list[Question]:
    """Yes and no in equal number; every no keeps a kind or a colour of the scene, and most keep both."""
    pairs = sorted({(t.color, t.kind) for t in layout.things})
    colors, kinds = sorted({c for c, _ in pairs}), sorted({k for _, k in pairs})
    yes: list[Question] = []
    no: list[Question] = []
    for color, kind in _pick(rng, pairs, 6):
        boxes = [t for t in layout.things if (t.color, t.kind) == (color, kind)]
        yes.append(_question(layout, "exist", f"is there {article(color)} {color} {noun(kind)}?", "yes", boxes))
    both = [(c, k) for c in colors for k in kinds if (c, k) not in pairs]
    either = [(str(rng.choice(list(COLORS))), k) for k in kinds] + [(c, str(rng.choice(KINDS))) for c in colors]
    either = sorted({p for p in either if p not in pairs})
    for color, kind in dict.fromkeys([*_pick(rng, both, 4), *_pick(rng, either, 6)]):
        if len(no) < len(yes):
            near = [t for t in layout.things if t.kind == kind] or [t for t in layout.things if t.color == color]
            no.append(_question(layout, "exist", f"is there {article(color)} {color} {noun(kind)}?", "no", near))
    return yes + no


def _count(layout: Layout, rng: np.random.Generator) -> list[Question]:
    out = []
    for shape in SHAPES:
        same = [t for t in layout.things if t.kind == shape]
        out.append(_question(layout, "count", f"how many {PLURALS[shape]} are there?", str(len(same)), same))
    zeros = [q for q in out if q.answer == "0"]
    return [q for q in out if q.answer != "0"] + (_pick(rng, zeros, 1) if rng.random() < 0.5 else [])


def _position(layout: Layout, rng: np.random.Generator) -> list[Question]:
    """The cell of a 3 x 3 grid, asked only of things whose centre lies at least 5 pixels from a border of cells."""
    out = []
    for t in layout.things:
        clear = all(abs(v - line) >= 5 for v in t.center for line in (SIZE / 3, 2 * SIZE / 3))
        if clear and _alone(layout, kind=t.kind, color=t.color):
            cell = int(t.center[1] * 3 // SIZE) * 3 + int(t.center[0] * 3 // SIZE)
            out.append(_question(layout, "position", f"where is the {t.color} {noun(t.kind)}?", PLACES[cell], [t]))
    return out


def _plate(layout: Layout, rng: np.random.Generator) -> list[Question]:
    return [
        _question(layout, "plate", f"what is the code on the {t.color} plate?", " ".join(t.code), [t])
        for t in layout.things
        if t.kind == PLATE
    ]


def _relation(layout: Layout, rng: np.random.Generator) -> list[Question]:
    """The target is never named: it must be found from the anchor, then read."""
    out = []
    for anchor in layout.things:
        if _alone(layout, kind=anchor.kind):
            name = noun(anchor.kind)
        elif _alone(layout, kind=anchor.kind, color=anchor.color):
            name = f"{anchor.color} {noun(anchor.kind)}"
        else:
            continue
        for words, step in DIRECTIONS.items():
            target = neighbour(layout, anchor, step)
            if target is None:
                continue
            text = f"what color is the thing {words} the {name}?"
            out.append(_question(layout, "relation", text, target.color, [anchor, target]))
            if target.kind in SHAPES:
                text = f"what shape is the thing {words} the {name}?"
                out.append(_question(layout, "relation", text, target.kind, [anchor, target]))
    return out


def _alone(layout: Layout, kind: str, color: str | None = None) -> bool:
    return sum(t.kind == kind and color in (None, t.color) for t in layout.things) == 1


def _question(layout: Layout, kind: str, text: str, answer: str, needs: Iterable[Thing]) -> Question:
    return Question(text, answer, kind, layout.tier, tuple(t.box for t in needs))


def _pick(rng: np.random.Generator, items: Sequence[T], n: int) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))[:n]]


_BUILDERS: dict[str, Callable[[Layout, np.random.Generator], list[Question]]] = {
    "color": _color,
    "shape": _shape,
    "letter": _letter,
    "exist": _exist,
    "count": _count,
    "position": _position,
    "plate": _plate,
    "relation": _relation,
}
