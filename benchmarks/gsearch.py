"""What G-Search and P-Sigmoid find on the instrument, and whether what they promise holds on data nobody searched on.

    python benchmarks/gsearch.py [--sets 5] [--scenes 125] [--test-scenes 250] [--out benchmarks/results]

- promises: G-Search on each of several disjoint calibration sets; the bound that each plan states from its own
  held-out half, and its loss on the test questions. One plan a set; how many losses are within their bounds?
- halved: the first set's plan on the test questions: loss in points, and the visual tokens' operations that are left.
- budget: at a mean of --budget, P-Sigmoid against FastV and a flat schedule of the same mean, paired over the test
  questions, answer by answer (exact McNemar test). Where the first layer sees everything, all three rank alike inside
  the LLM; with a cut before the first layer, P-Sigmoid is also compared with that cut alone. What P-Sigmoid ranks by
  and its slope are chosen on the calibration set.

Everything that was evaluated is kept in studies in --work: a killed run goes on, and two processes share the work.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from foveate import Plan, PlanError, files
from foveate.engines import hf
from foveate.methods import METHODS
from foveate.methods.layerwise import layerwise
from foveate.search.halves import Split, split
from foveate.search.promise import error, promise
from foveate.search.schedules import Effort, Ranking, find_schedule, find_slope
from foveate.search.session import Session
from foveate.search.study import Study
from foveate.tiny.examples import examples

RANKINGS = (("own", "text"), ("own", "last"), ("previous", "last"))


class Bench:
    """The engine, the test questions and the studies."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.engine = args, hf.load(args.model)
        self.depth = self.engine.facts.depth
        self.test = self.session("test", Split(examples(range(args.test_scenes), "test", 4), []), "exact")

    def session(self, name: str, data: Split, metric: str) -> Session:
        sizes = {"search": len(data.search), "held": len(data.held), "metric": metric}
        study = Study(self.args.work / f"{name}-{metric}.study", name, sizes)
        return Session(self.engine, data, metric, study, batch=self.args.batch)

    def calibration(self, number: int) -> Split:
        """Scenes that no other set has, and no test."""
        start = 10_000 + number * self.args.scenes
        return split(examples(range(start, start + self.args.scenes), "val", 8), seed=number)

    def tested(self, plan: Plan) -> dict:
        (outcome,) = self.test.search.evaluate([plan])
        lost = self.test.search.losses(outcome)
        return {"accuracy": outcome.score, "loss": fmean(lost), "error": error(lost), "budget": outcome.budget,
                "visual_flops": outcome.flops, "scores": list(outcome.scores)}  # fmt: skip


def promises(bench: Bench) -> list[dict]:
    """One row a calibration set: what was found, what was promised, what came."""
    rows = []
    for number in range(bench.args.sets):
        data = bench.calibration(number)
        s = bench.session(f"set-{number}", data, bench.args.metric)
        ranking = Ranking(raters=bench.args.raters, attention=bench.args.attention)
        plan = find_schedule(s, bench.args.tolerance, ranking=ranking)
        # The same plan judged in answers: what a user of the plan will count.
        judge = bench.session(f"judge-{number}", Split(data.held, []), "exact")
        (outcome,) = judge.search.evaluate([plan])
        bound = promise(judge.search.losses(outcome))
        test = bench.tested(plan)
        rows.append({
            "set": number, "searched_on": len(data.search), "schedule": plan.made["schedule"],
            "search_loss": plan.made["search"]["loss"], "held_out": bound.to_dict(),
            "promised_likelihood": plan.made["held_out"], "test": {k: v for k, v in test.items() if k != "scores"},
            "within": test["loss"] <= bound.upper, "evaluations": len(s.study.known()),
        })  # fmt: skip
    return rows


def rivals(bench: Bench) -> dict[str, Plan]:
    """Plans of the same mean: P-Sigmoid as calibrated, FastV, flat."""
    keep, depth = bench.args.budget, bench.depth
    data = bench.calibration(0)
    plans: dict[str, Plan] = {}
    for first in ("full", "spread", "cls"):
        best: tuple[float, Plan] | None = None
        for attention, raters in RANKINGS:
            s = bench.session(f"slope-{first}-{attention}-{raters}", data, "likelihood")
            try:
                ranking = Ranking(first, raters, attention)
                plan = find_slope(s, keep, "tokens", first != "full", ranking, Effort(bench.args.trials))
            except PlanError as e:
                Console().print(f"P-Sigmoid, first={first}: {e}")
                break
            loss = plan.made["search"]["loss"]
            if best is None or loss < best[0]:
                best = loss, plan
        if best is None:
            continue
        plans[f"psigmoid, first={first}"] = best[1]
        if first != "full":
            plans[f"flat: {first} alone"] = layerwise([keep] * depth, first=first)
    rest = (keep * depth - 1) / (depth - 1)
    if rest > 0:
        plans["fastv, layer 1"] = METHODS["fastv"](rest, layer=1)
        for attention, raters in RANKINGS:
            plans[f"flat behind layer 0, {attention} {raters}"] = layerwise(
                [1.0, *[rest] * (depth - 1)], raters, attention
            )
    rest = (keep * depth - 2) / (depth - 2)
    if rest > 0:
        plans["fastv, layer 2"] = METHODS["fastv"](rest, layer=2)
    return plans


def paired(a: list[float], b: list[float]) -> dict:
    """a against b: answers that only one gets right, and the exact two-sided test of their number."""
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    only_b = sum(x < y for x, y in zip(a, b, strict=True))
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return {"points": 100 * (fmean(a) - fmean(b)), "only_first": only_a, "only_second": only_b, "p": float(p)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--sets", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=125, help="of a calibration set, 8 questions each")
    parser.add_argument("--test-scenes", type=int, default=250, help="4 questions each")
    parser.add_argument("--metric", default="likelihood")
    parser.add_argument("--tolerance", type=float, default=None)
    parser.add_argument("--raters", default="text")
    parser.add_argument("--attention", default="own")
    parser.add_argument("--budget", type=float, default=0.125)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--parts", default="promises,budget")
    parser.add_argument("--work", type=Path, default=Path("out/gsearch"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    bench, console = Bench(args), Console(width=150)
    options = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in vars(args).items() if k not in ("out", "work"))
    target = args.out / "gsearch.json"
    result = json.loads(target.read_text()) if target.exists() else {}
    command = f"python benchmarks/gsearch.py {options}"
    result |= {"test_questions": len(bench.test.search.examples), "full": bench.test.search.full().score}
    if "promises" in args.parts:
        rows = promises(bench)
        table = Table(
            title=f"G-Search on {args.sets} disjoint sets; full model {result['full']:.1%} on the test questions"
        )
        for column in (
            "set",
            "counts of 576",
            "search loss",
            "promised, points",
            "test loss, points",
            "operations",
            "within",
        ):
            table.add_column(column, justify="right")
        for r in rows:
            counts = " ".join(str(round(576 * k)) for k in r["schedule"])
            t = r["test"]
            lost = f"{100 * t['loss']:.2f} +- {100 * t['error']:.2f}"
            promised = f"{100 * r['held_out']['upper']:.2f}"
            cells = counts, f"{r['search_loss']:.4f}", promised, lost, f"{t['visual_flops']:.1%}", str(r["within"])
            table.add_row(str(r["set"]), *cells)
        console.print(table)
        result["promises"] = {"command": command, "rows": rows}
    if "budget" in args.parts:
        plans = rivals(bench)
        tested = {name: bench.tested(plan) for name, plan in plans.items()}
        table = Table(title=f"mean of {args.budget:.1%} of the visual tokens")
        for column in ("plan", "accuracy", "budget", "operations"):
            table.add_column(column, justify="left" if column == "plan" else "right")
        for name, t in tested.items():
            table.add_row(name, f"{100 * t['accuracy']:.1f}", f"{t['budget']:.1%}", f"{t['visual_flops']:.1%}")
        console.print(table)
        ours = [n for n in tested if n.startswith("psigmoid")]
        pairs = {
            f"{a} against {b}": paired(tested[a]["scores"], tested[b]["scores"])
            for a, b in product(ours, tested) if a != b
        }  # fmt: skip
        for name, p in pairs.items():
            split_up = f"({p['only_first']} to {p['only_second']})"
            console.print(f"{name}: {p['points']:+.1f} points {split_up}, p = {p['p']:.2g}")
        made = {name: dict(plan.made) for name, plan in plans.items() if plan.made}
        result["budget"] = {
            "command": command,
            "plans": {n: {k: v for k, v in t.items() if k != "scores"} for n, t in tested.items()},
            "chosen": {n: {k: m[k] for k in ("slope", "top", "attention", "raters", "first")} for n, m in made.items()},
            "pairs": pairs,
        }
    files.write(target, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
