"""The cost pass: all ways and their oracles in turn, on one model, one kernel and one batch, part by part.

A cell is one batch size and one answer length. In each of its repeats the full model, every way and every way's oracle
run once, the first of them another one each time; ratios are taken within a repeat. Preparing the pictures is not
timed, so shrinking them for `downsample` is not either.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch

from foveate.bench.asking import size_of
from foveate.bench.downsample import interpolated, shrink
from foveate.bench.oracle import Oracle, oracle
from foveate.bench.shape import entry_bytes, prefill_flops
from foveate.bench.timing import Runner, middle, ratio
from foveate.bench.ways import Way
from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.engines.prompting import Prompt
from foveate.engines.score import prepare_examples
from foveate.errors import FoveateError
from foveate.hf.families import family

WARM_UPS = 2
Smaller = Callable[[Way], Prompt]


def measure(
    engine: Engine, prompt: Prompt, smaller: Smaller, ways: Sequence[Way], length: int, repeats: int
) -> Iterator[dict[str, Any] | None]:
    """Measure one cell. Yields None after every turn, and the cell at last.

    Args:
        engine: the model.
        prompt: what is asked, as many prompts as the batch holds.
        smaller: gives the same with smaller pictures, for `downsample`.
        ways: the full model first.
        length: tokens of every answer.
        repeats: timed turns, after WARM_UPS untimed ones.

    Raises:
        FoveateError: the device is out of memory.
    """
    batch = len(prompt.inputs["input_ids"])
    failed: dict[str, str] = {}
    runners: dict[str, Runner] = {}
    prompts: dict[str, Prompt] = {}
    oracles: dict[str, tuple[Runner, Oracle]] = {}
    try:
        for way in ways:
            if way.why:
                failed[way.id] = way.why
                continue
            try:
                prompts[way.id], runners[way.id] = _runner(engine, way, smaller, prompt)
                runners[way.id].run(engine, 1, count=False)
            except FoveateError as error:
                failed[way.id] = str(error)
                runners.pop(way.id, None)
                continue
            if (report := runners[way.id].report) is not None:
                found = oracle(engine, prompt, report)
                oracles[way.id] = Runner(found.encode), found
        line = [r for i, r in runners.items() for r in (r, *(o[0] for o in [oracles.get(i)] if o))]
        for turn in range(WARM_UPS + repeats):
            first = turn * 7 % len(line)
            for runner in line[first:] + line[:first]:
                runner.run(engine, length, count=turn >= WARM_UPS)
            yield None
    except torch.OutOfMemoryError:
        raise FoveateError(f"out of memory at batch size {batch}; leave it out of --batch-sizes") from None
    rows = [
        {"way": w.id, "method": w.method, "keep": w.keep, "failed": failed[w.id]}
        if w.id in failed
        else _row(engine, w, runners, prompts[w.id], oracles.get(w.id))
        for w in ways
    ]
    yield {"batch": batch, "length": length, "repeats": repeats, "visual": _visual(engine, prompt), "rows": rows}


def asked(engine: Engine, examples: Sequence[Example], batch: int) -> tuple[Prompt, Smaller]:
    """The first two arguments of a cell: the first `batch` examples, fewer repeated.

    Raises:
        FoveateError: a picture cannot be read.
    """
    chosen = list(islice(cycle(examples), batch))
    prompt = prepare_examples(engine, chosen)
    return prompt, lambda way: shrink(engine, chosen, prompt, size_of(way))


def _runner(engine: Engine, way: Way, smaller: Smaller, prompt: Prompt) -> tuple[Prompt, Runner]:
    around: Callable[[], Any] = nullcontext
    if way.kind == "downsample":
        prompt, around = smaller(way), partial(interpolated, engine)
    return prompt, Runner(partial(dict, prompt.inputs), way.plan, prompt.tail, around)


def _row(
    engine: Engine, way: Way, runners: dict[str, Runner], prompt: Prompt, found: tuple[Runner, Oracle] | None
) -> dict[str, Any]:
    mine, full = runners[way.id], runners["full"]
    lengths = prompt.inputs["attention_mask"].sum(1).tolist()
    visual, depth = _visual(engine, prompt), engine.facts.depth
    # What the full model holds is on any plan's report; else it is reckoned.
    told = next((r.report for r in runners.values() if r.report is not None), None)
    if mine.report is not None:
        held: int | None = mine.report.cache.bytes
    elif told is not None and way.kind != "downsample":
        held = told.cache_full.bytes
    else:
        size = entry_bytes(engine.model)
        held = None if size is None else len(lengths) * prompt.tokens * depth * size
    row: dict[str, Any] = {
        "way": way.id,
        "method": way.method,
        "keep": way.keep,
        "seconds": mine.summary(),
        "speedup": {p: ratio(full, mine, p) for p in ("encode", "prefill", "first_token", "total")},
        "kv_bytes": held,
        "prefill_flops": prefill_flops(engine.model, lengths, visual, mine.report, depth),
    }
    if found is None:
        return row
    floor, what = found
    return row | {
        "oracle": {"visual": what.visual, "equal": what.equal, "seconds": floor.summary()},
        "efficiency": {p: ratio(floor, mine, p) for p in ("first_token", "total")},
        "break_even": break_even(full, mine, floor, visual, what.visual),
    }


def break_even(full: Runner, mine: Runner, floor: Runner, visual: int, kept: int) -> dict[str, float] | None:
    """From how many tokens on the way is faster than the full model, to the first token.

    What the way adds (its time over its oracle's) must be less than what dropping saves; both are read off this cell,
    taking prefill as linear in the tokens and the addition as the same for all sizes. None where nothing is saved.
    """
    saved_a_token = (middle(full, "prefill") - middle(floor, "prefill")) / max(1, visual - kept)
    if saved_a_token <= 0 or kept >= visual:
        return None
    dropped = max(0.0, middle(mine, "first_token") - middle(floor, "first_token")) / saved_a_token
    return {"dropped": dropped, "visual": dropped / (1 - kept / visual)}


def _visual(engine: Engine, prompt: Prompt) -> int:
    token = family(engine.model).token_id(engine.model.config, "image")
    return int((prompt.inputs["input_ids"] == token).sum())
