"""`python -m foveate.samples`: draw the sample pictures anew, one for each kind of question.

Taken in order from the validation split, so that no test scene is among them; the first of each kind that the embedded
model answers right with all tokens. No pruned answer is looked at.
"""

import io
import json

from foveate import files, tiny
from foveate.engines import hf
from foveate.samples import FOLDER
from foveate.tiny.vocabulary import QUESTION_KINDS, TIERS


def main() -> None:
    """Write the PNGs and samples.json."""
    engine = hf.load()
    entries = []
    for number, kind in enumerate(QUESTION_KINDS, 1):
        tier = TIERS[number % len(TIERS)]
        image, question = next(_right(engine, kind, tier))
        name = f"scene-{number}.png"
        buffer = io.BytesIO()
        image.save(buffer, format="png", optimize=True)
        files.write(FOLDER / name, buffer.getvalue())
        entries.append({"file": name, "question": question.text, "answer": question.answer})
    files.write(FOLDER / "samples.json", (json.dumps(entries, indent=2) + "\n").encode())


def _right(engine, kind, tier):  # type: ignore[no-untyped-def]
    for index in range(1000):
        scene = tiny.world.scene("val", index, questions=12, tier=tier)
        for question in scene.questions:
            if question.kind == kind and question.answer not in ("no", "0"):
                answer = hf.ask(engine, [scene.image], question.text, max_new_tokens=6)
                if answer.text == question.answer:
                    yield scene.image, question


if __name__ == "__main__":
    main()
