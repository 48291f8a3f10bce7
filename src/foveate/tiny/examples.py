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


def examples(scenes: Iterable[int], split: str = "test", questions: int = 8, tier: str | None = None) -> list[Example]:
    """Every question of the scenes of these numbers; ids are `split-scene-question`, groups are kinds.

    Raises:
        FoveateError: an unknown split or tier.
    """
    found = []
    for number in scenes:
        scene = world.scene(split, number, questions, tier)
        found += [
            Example(f"{split}-{number}-{i}", (scene.image,), q.text, (q.answer,), q.kind)
            for i, q in enumerate(scene.questions)
        ]
    return found


def write(folder: Path, scenes: Iterable[int], split: str = "test", questions: int = 8) -> Path:
    """The same as `data.jsonl` in `folder`, one PNG a scene beside it; returns the JSONL file.

    Raises:
        FoveateError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FoveateError(f"cannot make the folder {folder}: {e.strerror}; name another") from None
    lines: list[str] = []
    for number in scenes:
        for example in examples([number], split, questions):
            name = f"{split}-{number}.png"
            if not lines or json.loads(lines[-1])["image"] != name:
                buffer = io.BytesIO()
                example.pictures()[0].save(buffer, format="png")
                files.write(folder / name, buffer.getvalue())
            entry = {"id": example.id, "image": name, "question": example.question}
            lines.append(json.dumps(entry | {"answer": example.answers[0], "group": example.group}))
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
