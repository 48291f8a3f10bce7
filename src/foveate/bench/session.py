"""One benchmark from request to report: checks, answers, times, figures. Everything it does can be taken up again."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from foveate import files
from foveate.bench import asking, cost, environment, quality, run
from foveate.bench.log import Log, Record
from foveate.bench.tasks import Task
from foveate.bench.ways import FULL, Way, check_names
from foveate.engines import hf
from foveate.errors import FoveateError

_LOOK = 30.0
"""Seconds to the first look at figures that grow; to each later one twice as many as to the one before."""
Progress = Callable[[str, int, int], None]
"""(what, done, of how many)"""


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        model: a folder, a hub id, or "tiny".
        tasks, ways: the full model is the first way.
        out: the folder of this benchmark.
        baseline: the method that others are compared with.
        batch: examples at a time in the quality pass.
        seed: of methods that draw.
        batch_sizes, lengths, repeats: cells of the cost pass; no sizes, no cost pass.
        device, dtype: as `engines.load` takes them.
    """

    model: str
    tasks: Sequence[Task]
    ways: Sequence[Way]
    out: Path
    baseline: str = "random"
    batch: int = 8
    seed: int = 0
    batch_sizes: Sequence[int] = (1,)
    lengths: Sequence[int] = (8,)
    repeats: int = 3
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.baseline not in {w.method for w in self.ways}:
            raise FoveateError(f"--baseline is {self.baseline!r}, which is not among the methods of this benchmark")
        check_names([t.name for t in self.tasks], self.ways)


def bench(
    request: Request, progress: Progress, seen: Callable[[dict[str, Any]], None] = lambda quality: None
) -> dict[str, Any]:
    """Do what is still to be done, then write results.json and report.html; gives the results.

    Quality comes first and is written down before the cost pass begins: who stops that one has all answers.

    Args:
        request: what is asked for.
        progress: told how far it is.
        seen: told the figures of quality, now and then as they grow, and once when all answers are there.

    Raises:
        FoveateError: the folder holds another benchmark, the disk is full, the model does not load.
    """
    out = run.open_folder(request.out)
    with (
        Log(out / run.SAMPLES, asking.is_record) as samples,
        Log(out / run.COST, _is_cell) as cells,
    ):
        config = run.settle(out, _fixed(request), request.tasks, request.ways)
        engine = hf.load(request.model, request.device, request.dtype)
        _answer(engine, request, samples, progress, seen)
        results = {
            "foveate_bench": run.VERSION,
            "config": config["fixed"] | {"baseline": request.baseline, "ways": [w.to_dict() for w in request.ways]},
            "environment": environment.describe(engine, request.model),
            "quality": quality.figures(request.tasks, request.ways, samples.records, request.baseline),
            "samples": {t.name: _samples(t, request.ways, samples.records) for t in request.tasks},
        }
        seen(results["quality"])
        from foveate.bench import page

        cases = page.draw_cases(request.tasks, request.ways, samples.records, engine.processor.image_processor)

        def write() -> dict[str, Any]:
            finished = {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
            done = results | finished | {"cost": _cells(request, cells.records)}
            files.write(out / run.RESULTS, run.to_json(done))
            files.write(out / run.PAGE, page.build(done, cases).encode())
            return done

        written = write()
        if _time(engine, request, cells, progress):
            written = write()
    return written


def _answer(
    engine: hf.Engine,
    request: Request,
    samples: Log,
    progress: Progress,
    seen: Callable[[dict[str, Any]], None],
) -> None:
    """Ask what is not in the log."""
    said, wait = time.monotonic(), _LOOK
    for number, task in enumerate(request.tasks):
        total = len(task.examples) * len(request.ways)
        done = total - asking.pending(task, request.ways, samples)
        progress(task.name, done, total)
        for step in asking.ask(engine, task, request.ways, samples, request.batch):
            done += step.done
            progress(task.name, done, total)
            if done < total and time.monotonic() - said > wait:
                said, wait = time.monotonic(), 2 * wait
                seen(quality.figures(request.tasks[: number + 1], request.ways, samples.records, request.baseline))


def _fixed(request: Request) -> dict[str, Any]:
    """What decides an answer, beside its task and way."""
    place = hf.check_device(request.device)
    hf.check_dtype(request.dtype)
    return {
        "model": request.model,
        "weights": hf.fingerprint(Path(hf.look(request.model).source)),
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        "dtype": request.dtype,
        "batch size": request.batch,
        "seed": request.seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _is_cell(record: Record) -> bool:
    return isinstance(record.get("cell"), dict)


def _key(request: Request, batch: int, length: int) -> dict[str, Any]:
    return {
        "key": [batch, length, request.repeats, request.tasks[0].name, run.digest(request.tasks[0])],
        "ways": [w.id for w in request.ways],
    }


def _time(engine: hf.Engine, request: Request, log: Log, progress: Progress) -> bool:
    """Measure the cells that are not in the log, if any. Ways of one cell are measured together, or not at all."""
    before = len(log.records)
    cells = [(b, n) for b in request.batch_sizes for n in request.lengths]
    turns = cost.WARM_UPS + request.repeats
    done, total = 0, len(cells) * turns
    for batch, length in cells:
        if _lookup(request, log.records, batch, length) is None:
            examples = _readable(request.tasks[0], batch)
            prompt, smaller = cost.asked(engine, examples, batch)
            for found in cost.measure(engine, prompt, smaller, request.ways, length, request.repeats):
                if found is not None:
                    log.append([_key(request, batch, length) | {"cell": found}])
                else:
                    done += 1
                    progress("cost", done, total)
        else:
            done += turns
            progress("cost", done, total)
    return len(log.records) > before


def _readable(task: Task, count: int) -> list[Any]:
    """The first examples with pictures, all of which can be read."""
    found: list[Any] = []
    for e in task.examples:
        with suppress(FoveateError):
            found += [e] if e.pictures() else []
        if len(found) == count:
            break
    if not found:
        raise FoveateError(f"no picture of {task.name} can be read, so nothing can be timed; its answers are written")
    return found


def _lookup(request: Request, records: Sequence[Record], batch: int, length: int) -> dict[str, Any] | None:
    wanted = _key(request, batch, length)
    return next((r["cell"] for r in reversed(records) if {k: r.get(k) for k in wanted} == wanted), None)


def _cells(request: Request, records: Sequence[Record]) -> list[dict[str, Any]]:
    found = [_lookup(request, records, b, n) for b in request.batch_sizes for n in request.lengths]
    return [cell for cell in found if cell is not None]


def _samples(task: Task, ways: Sequence[Way], records: Sequence[Record]) -> dict[str, Any]:
    """Every answer and score, a list a way in the order of `ids`; None where there is none."""
    found = {(r["way"], r["id"]): r for r in records if r["task"] == task.name and "way" in r}
    return {
        "digest": run.digest(task),
        "ids": [e.id for e in task.examples],
        "questions": [e.question for e in task.examples],
        "right": [list(e.answers) for e in task.examples],
        "ways": {
            w.id: {
                "answers": [found.get((w.id, e.id), {}).get("answer") for e in task.examples],
                "scores": [found.get((w.id, e.id), {}).get("score") for e in task.examples],
            }
            for w in ways
        },
        "full": FULL,
    }
