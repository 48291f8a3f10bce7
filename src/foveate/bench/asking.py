"""The quality pass: every example to every way, batch by batch, each answer in the log before the next batch begins.

Batches are the same however often a run was interrupted: they are cut from the list of examples by number, and a batch
of which one answer is missing is asked again whole. So figures do not depend on where a run was killed.

What cannot be answered is kept, too. An example whose picture cannot be read, or which the processor refuses, is
"broken": no way sees it, and its number is reported. A way that fails on an example scores 0 there, and says why.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from foveate.bench.downsample import interpolated, shrink
from foveate.bench.log import Log, Record
from foveate.bench.tasks import Task
from foveate.bench.ways import Way
from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.engines.prompting import Prompt
from foveate.engines.score import Scored, answer_prompt, prepare_examples
from foveate.errors import FoveateError
from foveate.hf.encodings import Features
from foveate.hf.families import family
from foveate.selection import Block, Grid
from foveate.typed import fits


@dataclass(frozen=True)
class Step:
    """Progress: so many more of all (example, way) pairs are in the log."""

    done: int


def is_record(record: Record) -> bool:
    """Whether an object has the shape of what `ask` logs."""
    texts, counts = ["task", "id", "way", "answer"], ["score", "visual", "kept", "budget"]
    if "broken" in record:
        texts, counts = ["task", "id", "broken"], []
    elif "failed" in record:
        texts, counts = ["task", "id", "way", "failed"], ["score"]
    return all(fits(record.get(n), str) for n in texts) and all(fits(record.get(n), float) for n in counts)


def pending(task: Task, ways: Sequence[Way], log: Log) -> int:
    """How many (example, way) pairs are still to be asked."""
    found = _found(log, task)
    return sum((w.id, e.id) not in found for e in task.examples for w in ways if ("", e.id) not in found)


def ask(engine: Engine, task: Task, ways: Sequence[Way], log: Log, batch: int) -> Iterator[Step]:
    """Ask what is missing; yields after every batch of one way.

    Args:
        engine: the model.
        task: examples and their metric.
        ways: the full model first.
        log: where answers go, and come from.
        batch: examples at a time.

    Raises:
        FoveateError: the log cannot be written, or the device is out of memory.
    """
    found = _found(log, task)
    for start in range(0, len(task.examples), batch):
        chunk = task.examples[start : start + batch]
        missing = {w.id: [e for e in chunk if (w.id, e.id) not in found and ("", e.id) not in found] for w in ways}
        if not any(missing.values()):
            continue
        chunk, prompt, broken = _prepare(engine, task, chunk)
        fresh = [r for r in broken if ("", r["id"]) not in found]
        if fresh:
            log.append(fresh)
            yield Step(len(fresh) * len(ways))
        if prompt is None:
            continue
        # The full model is asked again in a batch that is taken up later: the others are measured against it.
        full = _answers(engine, task, ways[0], chunk, prompt)
        features: Features = {}
        for way in ways:
            wanted = {e.id for e in missing[way.id]} - {r["id"] for r in broken}
            if not wanted:
                continue
            said = full if way is ways[0] else _answers(engine, task, way, chunk, prompt, features)
            records = [_record(task, way, e, s, f) for e, s, f in zip(chunk, said, full, strict=True) if e.id in wanted]
            log.append(records)
            yield Step(len(records))


def _found(log: Log, task: Task) -> set[tuple[str, str]]:
    """(way, example) of this task in the log; the way is "" where the example is broken."""
    return {(r.get("way", ""), r["id"]) for r in log.records if r["task"] == task.name}


def _prepare(engine: Engine, task: Task, chunk: Sequence[Example]) -> tuple[list[Example], Prompt | None, list[Record]]:
    """One prompt of all examples that can be prepared, and a record for each that cannot."""
    try:
        return list(chunk), prepare_examples(engine, chunk), []
    except FoveateError:
        good, broken = [], []
        for e in chunk:
            try:
                prepare_examples(engine, [e])
                good.append(e)
            except FoveateError as error:
                broken.append({"task": task.name, "id": e.id, "broken": str(error)})
        if len(good) == len(chunk):  # each alone can be prepared, all together cannot
            raise
        return good, prepare_examples(engine, good) if good else None, broken


def _answers(
    engine: Engine, task: Task, way: Way, chunk: Sequence[Example], prompt: Prompt, features: Features | None = None
) -> list[tuple[Scored, int] | str]:
    """For each example an answer and its visual tokens, or why there is none; plans encode pictures once."""
    if way.why:
        return [way.why] * len(chunk)
    try:
        return list(_batch(engine, task, way, chunk, prompt, features))
    except torch.OutOfMemoryError:
        raise FoveateError(
            f"out of memory with {len(chunk)} examples at a time; give a smaller --batch-size and another --out"
        ) from None
    except FoveateError as error:
        if len(chunk) == 1:
            return [str(error)]
        return [_answers(engine, task, way, [e], prepare_examples(engine, [e]))[0] for e in chunk]


def _batch(
    engine: Engine, task: Task, way: Way, chunk: Sequence[Example], prompt: Prompt, features: Features | None
) -> Iterator[tuple[Scored, int]]:
    context: Any = nullcontext()
    if way.kind == "downsample":
        prompt, context, features = shrink(engine, chunk, prompt, size_of(way)), interpolated(engine), None
    with context:
        scored = answer_prompt(engine, prompt, way.plan, task.max_new_tokens, features)
        tokens = _by_example(engine, prompt)
    return zip(scored, tokens, strict=True)


def size_of(way: Way) -> Cut:
    """A cut that counts as this way's keep says; it is never made."""
    from foveate.methods.uniform import Uniform

    return Cut("input", Uniform(), int(way.keep) if way.keep.isdigit() else float(way.keep))


def _by_example(engine: Engine, prompt: Prompt) -> list[int]:
    """Visual tokens of each example's prompt."""
    token = family(engine.model).token_id(engine.model.config, "image")
    return [int(n) for n in (prompt.inputs["input_ids"] == token).sum(1)]


def _record(task: Task, way: Way, e: Example, said: Any, full: Any) -> Record:
    record: Record = {"task": task.name, "id": e.id, "way": way.id}
    if isinstance(said, str):
        return record | {"failed": said, "score": 0.0}
    scored, tokens = said
    record |= {
        "answer": scored.text,
        "new_tokens": scored.new_tokens,
        "score": task.score(scored.text, e),
        "visual": tokens,
        "kept": sum(i.per_layer[-1] for i in scored.images) if way.plan else tokens,
        "budget": scored.budget if way.plan else float(tokens),
    }
    if way.kind == "full":
        record["confidence"] = float(scored.first_V.max().exp())
    elif not isinstance(full, str):
        record["kl"] = divergence(full[0].first_V, scored.first_V)
    if way.plan:
        record["masks"] = [mask(i.cuts[-1].kept, i.tokens) for i in scored.images if i.cuts]
        record["grids"] = [plain(i.grid) for i in scored.images]
    return record


def divergence(full_V: torch.Tensor, way_V: torch.Tensor) -> float:
    """KL(full || way) in nats, of two log-probability vectors."""
    full, way = full_V.double(), way_V.double()
    return max(0.0, float((full.exp() * (full - way)).nan_to_num(0.0).sum()))


def mask(kept: Sequence[int], tokens: int) -> str:
    """Which tokens stayed, a bit each, the first token's highest, as hexadecimal."""
    bits = ["0"] * (tokens + -tokens % 4)
    for i in kept:
        bits[i] = "1"
    return f"{int(''.join(bits), 2):0{len(bits) // 4}x}"


def unmask(text: str) -> list[int]:
    """The indices behind `mask`."""
    return [i for i, bit in enumerate(f"{int(text, 16):0{4 * len(text)}b}") if bit == "1"]


def plain(grid: Grid) -> list[list[int]]:
    """A grid as numbers."""
    return [[b.start, b.rows, b.columns, int(b.newline)] for b in grid]


def grid_of(numbers: Sequence[Sequence[int]]) -> Grid:
    """The grid behind `plain`."""
    return tuple(Block(s, r, c, bool(n)) for s, r, c, n in numbers)
