"""The world as examples, and as a folder: `python -m foveate.tiny.examples --out DIR` writes PNGs and `data.jsonl`."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable
from pathlib import Path

from foveate import files
from foveate.data import Example
from foveate.errors import FoveateError
from foveate.tiny import world


def examples(scenes: Iterable[int], split: str = "test", questions: int = 8) -> list[Example]:
    """Every question of the scenes of these numbers; ids are `split-scene-question`.

    Raises:
        FoveateError: an unknown split.
    """
    found = []
    for number in scenes:
        scene = world.scene(split, number, questions)
        found += [
            Example(f"{split}-{number}-{i}", (scene.image,), q.text, (q.answer,)) for i, q in enumerate(scene.questions)
        ]
    return found


def write(folder: Path, scenes: Iterable[int], split: str = "test", questions: int = 8) -> Path:
    """The same as `data.jsonl` in `folder`, each with its kind, one PNG a scene beside it; returns the JSONL file.

    Raises:
        FoveateError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FoveateError(f"cannot make the folder {folder}: {e.strerror}; name another") from None
    lines: list[str] = []
    for number in scenes:
        scene, name = world.scene(split, number, questions), f"{split}-{number}"
        if scene.questions:
            buffer = io.BytesIO()
            scene.image.save(buffer, format="png")
            files.write(folder / f"{name}.png", buffer.getvalue())
        for i, q in enumerate(scene.questions):
            entry = {"id": f"{name}-{i}", "image": f"{name}.png", "question": q.text, "answer": q.answer}
            lines.append(json.dumps(entry | {"kind": q.kind}))
    return files.write(folder / "data.jsonl", ("\n".join(lines) + "\n").encode())


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(prog="python -m foveate.tiny.examples", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--split", default="val", choices=world.SPLITS)
    parser.add_argument("--scenes", type=int, default=64, help="how many scenes")
    parser.add_argument("--start", type=int, default=0, help="number of the first")
    args = parser.parse_args()
    print(write(args.out, range(args.start, args.start + args.scenes), args.split))


if __name__ == "__main__":
    main()
