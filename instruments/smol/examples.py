"""Held-out questions as PNGs and one JSONL file, which `foveate bench` and the scripts in benchmarks/ read.

    python -m instruments.smol.examples OUT [--split test] [--first 0] [--scenes 125] [--per-scene 8]

A scene gives at most `per-scene` questions: one of each kind it has first, then more. Boxes are in units of the
picture's side.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from instruments.smol import world


def chosen(split: str, n: int, side: int, most: int) -> list[world.Question]:
    """Questions of scene n: kinds in turn."""
    asked = world.questions(world.layout(split, n, side).placed, world.chance("asked", split, n))
    turn: dict[str, int] = {}
    order = []
    for q in asked:
        turn[q.kind] = turn.get(q.kind, 0) + 1
        order.append(turn[q.kind])
    ranked = sorted(range(len(asked)), key=lambda i: (order[i], i))
    return [asked[i] for i in ranked[:most]]


def write(out: Path, name: str, drawn: Iterable[tuple[Image.Image, list[world.Question]]]) -> None:
    """PNGs and questions.jsonl, of pictures with their questions; ids begin with the name."""
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for n, (image, asked) in enumerate(drawn):
        image.save(out / f"{n}.png")
        for i, q in enumerate(asked):
            row = {"id": f"{name}-{n}-{i}", "image": f"{n}.png", "question": q.text, "answer": q.answer}
            lines.append(json.dumps(row | {"group": q.kind, "boxes": q.needs}))
    (out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="test", choices=("train", "validation", "unseen", "test"))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=125)
    parser.add_argument("--per-scene", type=int, default=8)
    parser.add_argument("--side", type=int, default=168)
    given = parser.parse_args()
    split, side, numbers = given.split, given.side, range(given.first, given.first + given.scenes)
    drawn = ((world.scene(split, n, side)[0], chosen(split, n, side, given.per_scene)) for n in numbers)
    write(given.out, split, drawn)
