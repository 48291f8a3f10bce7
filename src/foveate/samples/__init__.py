"""Eight pictures from the world the embedded model was trained on, with a question and its right answer each."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Sample:
    """A picture (192 x 192 PNG), a question about it, and the answer: a word, or three letters with spaces."""

    image: Path
    question: str
    answer: str


@cache
def load() -> tuple[Sample, ...]:
    """Every sample, in a fixed order. The embedded model answers all of them right when nothing is dropped."""
    entries = json.loads((FOLDER / "samples.json").read_text())
    return tuple(Sample(FOLDER / e["file"], e["question"], e["answer"]) for e in entries)
