"""Tasks, one file each: the embedded world, a user's JSONL, and whatever lmms-eval knows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from foveate import files
from foveate.data import Example
from foveate.errors import FoveateError

KNOWN = "tiny, tiny:simple (or another tier), a JSONL file or a folder that holds one, lmms:NAME"


@dataclass(frozen=True)
class Task:
    """Examples, and how right an answer is.

    Args:
        name: as the user wrote it.
        examples: with unique ids.
        score: (answer, example) -> 0 to 1.
        metric: the score's name, for people.
        max_new_tokens: the longest answer.
        note: what a reader of the table should know.
    """

    name: str
    examples: Sequence[Example]
    score: Callable[[str, Example], float] = field(compare=False)
    metric: str
    max_new_tokens: int = 16
    note: str = ""


def load(name: str, limit: int | None = None, **options: Any) -> list[Task]:
    """The task of that name; `lmms:a,b` may be several.

    Args:
        name: see KNOWN.
        limit: only so many examples, the first ones.
        options: `max_new_tokens`, where the task leaves it open.

    Raises:
        FoveateError: no such task, or its data cannot be read.
    """
    # Each is imported when asked for: they pull in what the others do not need.
    if name == "tiny" or name.startswith("tiny:"):
        from foveate.bench.tasks import tiny

        return [tiny.load(name, limit)]
    if name.startswith("lmms:"):
        from foveate.bench.tasks import lmms

        return [lmms.load(name, limit)]
    if files.place(name).exists() or name.endswith(".jsonl"):
        from foveate.bench.tasks import jsonl

        return [jsonl.load(name, limit, **options)]
    raise FoveateError(f"no task {name!r}; known: {KNOWN}")
