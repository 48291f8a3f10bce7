"""`foveate bench --engine vllm`: a stock server, and one that prunes, under the same load in turns."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli import show
from foveate.cli.progress import progress
from foveate.errors import FoveateError

if TYPE_CHECKING:
    from foveate.data import Example
    from foveate.plan import Plan

STOCK, ALL = "stock", "keep=all"
TITLES = {"requests_s": "requests/s", "first_s": "first token, s", "tokens_s": "tokens/s", "cpu_s": "CPU s a request"}
FILE = "load.json"
MEMORY = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
SHARE = 0.4
"""Of the memory, for each of two servers side by side: vLLM gives one nearly all of it."""


def load(
    model: str,
    plans: "dict[str, Plan]",
    examples: "Sequence[Example]",
    out: Path,
    concurrency: Sequence[int],
    pairs: int,
    per_round: int,
    longest: int,
    options: Sequence[str],
    as_json: bool,
) -> None:
    """Measure, print, and write load.json.

    Raises:
        FoveateError: too few examples for rounds of fresh pictures, or a plan that cannot be served.
    """
    from foveate import files
    from foveate.bench import load as bench
    from foveate.engines.loading import look
    from foveate.engines.vllm import launch
    from foveate.engines.vllm.client import Served
    from foveate.servable import check_servable

    need = per_round * (pairs + 1) * len(concurrency)
    if len(examples) < need:
        raise FoveateError(
            f"{len(examples)} examples for {need} asked: every round needs pictures that no cache has seen; raise "
            "--limit, or lower --pairs or --per-round"
        )
    for plan in plans.values():
        check_servable(plan)
    source = os.fspath(look(model).source)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        (plain, first), (pruning, second) = (
            stack.enter_context(launch.serving(source, settings, shared(options))) for settings in (None, "all")
        )
        stock, ours = Served(plain, source, plans=False), Served(pruning, source)
        taken = partial(launch.processor_seconds, second)
        arms = [bench.Arm(STOCK, stock, None, partial(launch.processor_seconds, first))]
        arms += [bench.Arm(name, ours, plan, taken) for name, plan in {ALL: None, **plans}.items()]

        def fresh(number: int) -> "Sequence[Example]":
            return examples[number * per_round : (number + 1) * per_round]

        def save(rounds: "Sequence[bench.Round]") -> None:
            nonlocal found
            found = bench.to_dict(rounds, STOCK) | {"model": model, "per_round": per_round, "max_new_tokens": longest}
            files.write(out / FILE, json.dumps(found, indent=1).encode())

        with progress(as_json) as bar:
            bench.measure(arms, fresh, concurrency, pairs, longest, lambda *at: bar("load", *at), save)
    if as_json:
        show.as_json({k: v for k, v in found.items() if k != "rounds"})
        return
    page = show.console()
    for part in under_load(found["ratios"]):
        page.print(part)
    for name, clients in found["break_even_concurrency"].items():
        page.print(
            f"  {name}: " + (f"at least stock from concurrency {clients} on" if clients else "never above stock")
        )
    page.print(f"\nNumbers: {out / FILE}")


def shared(options: Sequence[str]) -> list[str]:
    """vLLM's options with `SHARE` of the memory for each of the two servers, unless they say what it gets."""
    said = any(word.partition("=")[0].replace("_", "-") in MEMORY for word in options)
    return [*options, *([] if said else [f"{MEMORY[0]}={SHARE}"])]


def under_load(rows: "Sequence[dict[str, Any]]") -> "Iterator[Any]":
    """What was measured, a line for each way and number of clients: the figure, and how many times stock's it is."""
    rows = sorted(rows, key=lambda r: (r["concurrency"], r["arm"] != STOCK))
    measured = [f for f in TITLES if any(r[f] is not None for r in rows)]
    lines: list[list[str] | None] = []
    for i, row in enumerate(rows):
        if i and row["concurrency"] != rows[i - 1]["concurrency"]:
            lines.append(None)
        prompt = f"{row['prompt_tokens']:.0f}"
        lines.append([row["arm"], str(row["concurrency"]), prompt, *(_cell(row, f) for f in measured)])
    titles = [TITLES[f] for f in measured]
    yield from show.fitted(["way", "clients", "prompt", *titles], lines, [TITLES["tokens_s"], TITLES["cpu_s"]])
    yield "[dim]Medians over the rounds; x: times stock's in the same round, and its 95 % interval.[/dim]"


def _cell(row: dict[str, Any], field: str) -> str:
    if row[field] is None:
        return ""
    if row["arm"] == STOCK:
        return f"{row[field]:.3g}"
    low, high = row[f"{field}_interval"]
    return f"{row[field]:.3g} x {row[f'{field}_ratio']:.2f} ({low:.2f}-{high:.2f})"
