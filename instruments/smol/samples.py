"""The dozen pictures that come with the repository: Fluent Emoji (MIT) on CC0 photographs, with their questions.

python -m instruments.smol.samples   # writes samples/*.png and samples/questions.jsonl
"""

import json
from pathlib import Path

from instruments.smol import world

HERE = Path(__file__).parent / "samples"
COUNT, SIDE = 12, 336


def main() -> None:
    """Write the folder anew."""
    HERE.mkdir(exist_ok=True)
    lines = []
    for n in range(COUNT):
        image, placed = world.scene("samples", n, SIDE)
        image.quantize(96).save(HERE / f"{n}.png", optimize=True)
        for i, q in enumerate(world.questions(placed, world.chance("asked", "samples", n))):
            row = {"id": f"{n}-{i}", "image": f"{n}.png", "question": q.text, "answer": q.answer, "group": q.kind}
            lines.append(json.dumps(row | {"boxes": [[round(v, 4) for v in box] for box in q.needs]}))
    (HERE / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
