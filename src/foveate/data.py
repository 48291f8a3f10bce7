"""Questions about pictures, with or without answers: from a JSONL file, or a folder that holds one.

One JSON object a line:

    {"image": "a.jpg", "question": "what letter is red?", "answer": "k"}

`images` (a list) in the place of `image` asks about several, `answers` (a list) in the place of `answer` accepts any of
them, and `id` names the example (else its line number does). Picture paths are relative to the file. Other keys are
left alone, unless they look as if one of these was meant.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from foveate import files, images
from foveate.errors import FoveateError, short
from foveate.reading import NotJSON, read

_KNOWN = ("id", "image", "images", "question", "answer", "answers")
_TYPO = 0.82
_MEANT = {
    "image": ("img", "imgs", "picture", "pictures", "photo", "file", "filename", "path"),
    "question": ("prompt", "query", "instruction", "text", "conversations", "messages"),
}
"""What other formats call the same."""
_PICTURE = re.compile(r"\.(png|jpe?g|webp|bmp|gif|tiff?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Example:
    """One question.

    Args:
        id: unique in its set.
        images: paths, opened when asked for, or RGB pictures, in the order in which the prompt meets them.
        question: the words alone; template and placeholders are the engine's business.
        answers: any of them is right; empty where the answer is not known.
    """

    id: str
    images: tuple[Path | Image.Image, ...]
    question: str
    answers: tuple[str, ...] = ()

    def pictures(self) -> list[Image.Image]:
        """The pictures as RGB.

        Raises:
            FoveateError: a file is missing or is no picture.
        """
        return [images.load(i) if isinstance(i, Path) else i for i in self.images]


def load(path: str | os.PathLike[str], labelled: bool = False) -> list[Example]:
    """All examples of a JSONL file, or of the one JSONL file in a folder.

    Every line and the existence of every picture are checked; pictures are opened later.

    Args:
        path: the file or folder.
        labelled: refuse examples without an answer.

    Raises:
        FoveateError: nothing there, no examples, a line that is no example, a picture that is missing, an id that comes
            twice, or one question about the same pictures with two answers.
    """
    file = _file(files.place(path))
    examples = list(_examples(file, files.read(file, "the data")))
    if not examples:
        raise FoveateError(f"{file} holds no examples; write one JSON object a line, with image, question and answer")
    _check(file, examples, labelled)
    return examples


def fingerprint(examples: Sequence[Example]) -> str:
    """A sum over all that is asked: what was begun on other data is not gone on with."""
    total = hashlib.sha256()
    for e in examples:
        sizes = [p.stat().st_size if isinstance(p, Path) else p.size for p in e.images]
        total.update(repr((e.id, sizes, e.question, e.answers)).encode())
    return total.hexdigest()[:16]


def _file(path: Path) -> Path:
    if not path.exists():
        raise FoveateError(f"no data at {path}; give a JSONL file, or a folder that holds one")
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.jsonl"))
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise FoveateError(f"{path} must hold one .jsonl file, but holds {names}; name the file itself")
    return found[0]


def _examples(file: Path, text: str) -> Iterator[Example]:
    # By "\\n" alone: JSON may hold what else Python takes for the end of a line (U+2028, U+2029, U+0085).
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number} of {file}"
        try:
            entry = read(line)
        except NotJSON as e:
            raise FoveateError(f"{where} is not JSON ({e})") from None
        if not isinstance(entry, dict):
            raise FoveateError(f"{where} is no JSON object, but {type(entry).__name__}")
        yield _example(file, number, where, entry)


def _example(file: Path, number: int, where: str, entry: dict[str, Any]) -> Example:
    for key in entry:
        if key not in _KNOWN and (meant := _meant(key, entry)):
            raise FoveateError(f"{where} has a key {short(key)!r}; did you mean {meant!r}?")
    question = entry.get("question")
    if not isinstance(question, str) or not question.strip():
        raise FoveateError(f"{where} asks nothing; it needs a key 'question' with text")
    paths = tuple(_picture(file, where, p) for p in _texts(where, entry, "image", "images"))
    name = number if entry.get("id") is None else entry["id"]
    return Example(str(name), paths, question, _texts(where, entry, "answer", "answers"))


def _meant(key: str, entry: dict[str, Any]) -> str | None:
    """The key that a person who wrote `key` must have meant, where the entry lacks it."""
    plain = key.strip().casefold()
    near = difflib.get_close_matches(plain, _KNOWN, n=1, cutoff=_TYPO)
    if near and near[0] not in entry:
        return near[0]
    value = entry[key][0] if isinstance(entry[key], list) and entry[key] else entry[key]
    # By its name, or by what stands in it: a question without its picture would be answered from nothing.
    alone = isinstance(value, str) and "image" not in entry and "images" not in entry
    if alone and (_PICTURE.search(value) or plain in _MEANT["image"] or plain.startswith(("image_", "img_"))):
        return "images" if isinstance(entry[key], list) else "image"
    return "question" if "question" not in entry and plain in _MEANT["question"] else None


def _picture(file: Path, where: str, name: str) -> Path:
    try:
        images.check_local(name)
        path = file.parent / files.place(name)
        found = files.place(path).is_file()
    except FoveateError as e:
        raise FoveateError(f"{where}: {e}") from None
    if not found:
        raise FoveateError(f"{where} names the picture {path}, which does not exist")
    return path


def _texts(where: str, entry: dict[str, Any], one: str, many: str) -> tuple[str, ...]:
    """The strings under either key; none where both are missing or null."""
    if entry.get(one) is not None and entry.get(many) is not None:
        raise FoveateError(f"{where} has both {one!r} and {many!r}; keep one of them")
    value = entry.get(many) if entry.get(one) is None else [entry[one]]
    if value is None:
        return ()
    numbers = (int, float) if one == "answer" else ()
    if not isinstance(value, list) or not all(
        isinstance(v, (str, *numbers)) and not isinstance(v, bool) for v in value
    ):
        raise FoveateError(f"{where}: {one!r} must be text, and {many!r} a list of texts")
    return tuple(str(v) for v in value)


def _check(file: Path, examples: list[Example], labelled: bool) -> None:
    ids: set[str] = set()
    said: dict[tuple[Any, str], tuple[str, Example]] = {}
    for e in examples:
        if e.id in ids:
            raise FoveateError(f"{file} has two examples of id {e.id!r}; make ids unique, or leave them out")
        ids.add(e.id)
        if labelled and not any(a.strip() for a in e.answers):
            raise FoveateError(f"example {e.id} of {file} has no answer, which is needed here")
        key = (e.images, e.question)
        answers = "|".join(sorted(e.answers))
        if (other := said.setdefault(key, (answers, e)))[0] != answers:
            raise FoveateError(
                f"examples {other[1].id} and {e.id} of {file} ask the same of the same pictures, but their answers "
                "differ; put all right answers into one list"
            )
