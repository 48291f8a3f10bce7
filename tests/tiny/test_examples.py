"""A folder of the world holds the same questions and pixels as the world."""

from pathlib import Path

from foveate import data
from foveate.tiny.examples import examples, write


def test_a_folder_reads_back_as_the_world(tmp_path: Path) -> None:
    want = examples(range(2), "val", 3)
    got = data.load(write(tmp_path / "world", range(2), "val", 3), labelled=True)
    assert [(e.id, e.question, e.answers) for e in got] == [(e.id, e.question, e.answers) for e in want]
    assert all(a.pictures()[0].tobytes() == b.pictures()[0].tobytes() for a, b in zip(got, want, strict=True))
