"""A benchmark folder: what was asked for, what is done, and what came of it. The same command again goes on.

config.json     what decides the answers; another command in the same folder may add methods, keeps and tasks
samples.jsonl   one line for each example and way, as they are answered
cost.jsonl      one line for each measured cell of batch size and answer length
results.json    everything, rewritten whole
report.html     the same, to be read
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate import files
from foveate.bench.tasks import Task
from foveate.bench.ways import Way
from foveate.errors import FoveateError
from foveate.reading import NotJSON, read

VERSION = 1
CONFIG, SAMPLES, COST, RESULTS, PAGE = "config.json", "samples.jsonl", "cost.jsonl", "results.json", "report.html"


def open_folder(out: Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        FoveateError: it cannot be made, or holds something else.
    """
    out = files.folder(out)
    if not (out / CONFIG).exists() and any(out.glob("*.jsonl")):
        raise FoveateError(f"{out} holds .jsonl files, but no benchmark; name another folder with --out")
    return out


def settle(out: Path, fixed: dict[str, Any], tasks: Sequence[Task], ways: Sequence[Way]) -> dict[str, Any]:
    """Compare with what the folder holds, and write down the sum of both.

    Args:
        out: the folder.
        fixed: what decides an answer beside task and way, as plain data; must be the same.
        tasks: may be more or fewer than before, each the same.
        ways: likewise.

    Raises:
        FoveateError: something that decides answers differs.
    """
    mine: dict[str, Any] = {
        "foveate_bench": VERSION,
        "fixed": fixed,
        "tasks": {t.name: digest(t) for t in tasks},
        "ways": {w.id: w.to_dict() for w in ways},
    }
    old = read_json(out / CONFIG) if (out / CONFIG).exists() else None
    if old is not None:
        if old.get("foveate_bench") != VERSION:
            raise FoveateError(f"{out} was made by another version of foveate bench; name another folder with --out")
        for name, value in fixed.items():
            if (before := old["fixed"].get(name)) != value:
                raise FoveateError(
                    f"{out} holds answers with {name} = {before!r}, not {value!r}; name another folder with --out"
                )
        for part in ("tasks", "ways"):
            for name, value in mine[part].items():
                if old[part].get(name, value) != value:
                    raise FoveateError(f"{out} holds answers for another {name}; name another folder with --out")
            mine[part] = old[part] | mine[part]
    files.write(out / CONFIG, to_json(mine))
    return mine


def digest(task: Task) -> str:
    """What a task asks, in short."""
    told = hashlib.sha256(repr((task.metric, task.max_new_tokens)).encode())
    for e in task.examples:
        told.update(repr((e.id, e.question, e.answers, [str(i) for i in e.images])).encode())
    return f"{len(task.examples)} examples, {told.hexdigest()[:16]}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FoveateError: missing, or none.
    """
    try:
        data = read(files.read(path, "the file"))
    except NotJSON as e:
        raise FoveateError(f"{path} is damaged: it is no JSON ({e})") from None
    if not isinstance(data, dict):
        raise FoveateError(f"{path} is damaged: it is no JSON object")
    return data


def to_json(data: Any) -> bytes:
    """Readable JSON."""
    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
