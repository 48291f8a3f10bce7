"""What plans found by `foveate search` do on the test questions of the instrument of pretrained parts; promises kept?

    python benchmarks/smol_promises.py --model OUT --plans PLANS --sets SET0 SET1 ...      # or `foveate search`
    python benchmarks/smol_search.py --model OUT --data TEST PLANS/*.json

A row a plan: what the search saw on its half, what the plan promises from the half it did not see, and on the test
questions its loss in the metric of the promise, its right answers against all tokens' (paired), and its cost.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console

from foveate import Plan, files
from foveate.bench.statistics import compare
from foveate.search.promise import error
from smol import Bench, Loaded, Outcome


def judged(bench: Bench, plan: Plan, full: Outcome) -> dict[str, Any]:
    """A plan file's row."""
    made, plan = dict(plan.made or {}), plan.at_depth(bench.depth)
    # What was asked is kept by what the plan does: how it was found may change.
    found = bench.forced(replace(plan, note="", made=None))
    scores = [("likelihood", full.likelihood, found.likelihood), ("exact", full.right, found.right)]
    (lost,) = ([a - b for a, b in zip(x, y, strict=True)] for m, x, y in scores if m == made["metric"])
    counts = [bench.tokens] * bench.depth
    for cut in plan.cuts:
        at = 0 if cut.at == "input" else int(cut.at)
        counts[at:] = [cut.count(bench.tokens)] * (bench.depth - at)
    chosen = {
        k: made[k] for k in ("tolerance", "slope", "whole", "raters", "attention", "method", "asked") if k in made
    }
    right = compare([float(r) for r in found.right], [float(r) for r in full.right]).to_dict()
    return {
        "by": made["by"], "metric": made["metric"], **chosen, "counts": counts,
        "searched on": made["search"]["examples"], "search loss": round(made["search"]["loss"], 4),
        "held out": {k: made["held_out"][k] for k in ("loss", "upper", "examples")},
        "test": {
            "loss": round(fmean(lost), 4), "error": round(error(lost), 4),
            "within": fmean(lost) <= made["held_out"]["upper"],
            "full": round(full.percent, 2), "percent": round(found.percent, 2), "points": right,
            "questions": len(found.right), "budget": round(fmean(found.budget) / bench.tokens, 4),
            "flops": round(fmean(found.flops), 4),
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", type=Path, nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("out/smol"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "smol_search.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(Loaded(args.model), args.data, args.work, 8 * args.scenes).first(args.scenes)
    rows = json.loads(args.out.read_text()) if args.out.exists() else {}
    full = bench.forced()
    for file in args.plans:
        rows[file.stem] = row = judged(bench, Plan.from_json(file.read_text()), full)
        files.write(args.out, (json.dumps(rows, indent=1) + "\n").encode())
        Console().print(file.stem, row["search loss"], row["held out"], row["test"])


if __name__ == "__main__":
    main()
