"""`foveate bench --engine vllm`: a stock server, and one that prunes, under the same load in turns."""

import json
import os
from collections.abc import Sequence
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
FILE = "load.json"
MEMORY = ("--gpu-memory-utilization", "--kv-cache-memory-bytes")
SHARE = 0.4
"""Of the memory, for each of two servers side by side: vLLM gives one nearly all of it."""
UNITS = {"requests_s": "requests/s", "first_s": "s to first token", "tokens_s": "tokens/s", "cpu_s": "CPU s a request"}


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
    for row in found["ratios"]:
        page.print(f"  {_line(row)}")
    for name, clients in found["break_even_concurrency"].items():
        page.print(
            f"  {name}: " + (f"at least stock from concurrency {clients} on" if clients else "never above stock")
        )
    page.print(f"\nNumbers: {out / FILE}")


def shared(options: Sequence[str]) -> list[str]:
    """vLLM's options with half of the memory for each of the two servers, unless they say what it gets."""
    said = any(word.partition("=")[0].replace("_", "-") in MEMORY for word in options)
    return [*options, *([] if said else [f"{MEMORY[0]}={SHARE}"])]


def _line(row: dict[str, Any]) -> str:
    words = f"{row['arm']:<24} concurrency {row['concurrency']:>3}  {row['prompt_tokens']:6.0f} prompt tokens"
    for field, unit in UNITS.items():
        if row[f"{field}_ratio"] is not None:
            low, high = row[f"{field}_interval"]
            words += f"  {row[field]:8.3f} {unit} (x {row[f'{field}_ratio']:.2f}, {low:.2f} to {high:.2f})"
    return words
