"""Candidates an hour: the evaluator of the searches against attaching the plan and calling `generate` anew.

    python benchmarks/search_speed.py [--examples 48] [--batch 16] [--repeats 3] [--out benchmarks/results]

Both score the same plans on the same examples in the same run, in turns; the clock is the CPU time of the process,
which other programs disturb least. `anew` prepares and encodes the pictures, as a script without a cache would: one
example a call, and in batches of the same size as the evaluator's. At least 5 times as many candidates as one by one
are wanted; the ratio to batches says how much of that is batching. G-Search asks at every layer: its deep candidates,
which start where the settled layers end, are many times cheaper than its first; "one a layer" is a whole round of it.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table

from foveate import files
from foveate.engines import hf
from foveate.engines.score import answer, likelihood
from foveate.methods import METHODS
from foveate.methods.layerwise import layerwise
from foveate.search.evaluator import Evaluator
from foveate.tiny.examples import examples

WANTED = 5.0


def candidates(depth: int) -> dict[str, list[tuple]]:
    """Name -> plans, each with the layer before which candidates are the same: what the searches ask about."""
    half = depth // 2

    def schedule(*keeps: float):
        return layerwise([*keeps, *[keeps[-1]] * (depth - len(keeps))], "text", "own")

    # Such as the searches settle on: a third from early on, a little in the end.
    settled = [1.0, 1.0, *[0.33] * (half - 2), *[0.2] * (depth - half)]
    return {
        "P-Sigmoid, 25%": [(METHODS["psigmoid"](0.25, depth=depth, raters="text", attention="own"), 1)],
        "G-Search, layer 1": [(schedule(1.0, 0.33), 1)],
        f"G-Search, layer {half}": [(schedule(*settled[:half], 0.1), half)],
        "G-Search, one a layer": [(schedule(*settled[:i], 0.7 * settled[i]), i) for i in range(1, depth)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    engine = hf.load(args.model)
    data = examples(range(args.examples), "test", 2)[: args.examples]
    clock = time.process_time
    batches = [data[i : i + args.batch] for i in range(0, len(data), args.batch)]

    def seconds(run) -> float:
        start = clock()
        run()
        return clock() - start

    rows: dict[str, dict] = {}
    for metric in ("likelihood", "agreement", "exact"):
        ready = seconds(lambda metric=metric: rows.update(_=Evaluator(engine, data, metric, args.batch)))
        judge = rows.pop("_")
        ask = likelihood if metric == "likelihood" else answer
        for name, plans in candidates(engine.facts.depth).items():
            judge.evaluate(*plans[0])
            pairs = []
            for _ in track(range(args.repeats), description=f"{metric}: {name}", transient=True):
                cached = seconds(lambda w=plans, j=judge: [j.evaluate(p, s) for p, s in w])
                anew = seconds(lambda w=plans, a=ask: [a(engine, b, p) for p, _ in w for b in batches])
                single = seconds(lambda w=plans, a=ask: [a(engine, [e], p) for p, _ in w for e in data])
                pairs.append((cached, anew, single))
            cached, anew, single = (statistics.median(p[i] for p in pairs) for i in (0, 1, 2))
            rows[f"{metric}: {name}"] = {
                "cached_seconds": cached, "batched_seconds": anew, "single_seconds": single,
                "ratio_to_single": statistics.median(p[2] / p[0] for p in pairs),
                "ratio_to_batched": statistics.median(p[1] / p[0] for p in pairs),
                "candidates_an_hour": 3600 * len(plans) / cached, "prepared_once_seconds": ready,
            }  # fmt: skip
    table = Table(title=f"{len(data)} examples, batches of {args.batch}, {args.threads} thread(s), CPU time")
    for column in ("candidate", "an hour", "over one by one", "over batches", "wanted"):
        table.add_column(column, justify="left" if column == "candidate" else "right")
    for name, r in rows.items():
        ratios = f"{r['ratio_to_single']:.1f}", f"{r['ratio_to_batched']:.1f}"
        table.add_row(name, f"{r['candidates_an_hour']:.0f}", *ratios, f"{WANTED:.0f}")
    Console().print(table)
    args.out.mkdir(parents=True, exist_ok=True)
    options = " ".join(f"--{k} {v}" for k, v in vars(args).items() if k != "out")
    result = {
        "command": f"python benchmarks/search_speed.py {options}", "torch": torch.__version__,
        "transformers": transformers.__version__, "machine": platform.machine(), "rows": rows,
    }  # fmt: skip
    files.write(args.out / "search_speed.json", (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
