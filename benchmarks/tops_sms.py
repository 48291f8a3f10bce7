"""TOPS and SMS on the embedded instrument, against every other method at the same mean budget.

    python benchmarks/tops_sms.py [--questions 1000] [--val-questions 600] [--split test] [--scenes N] [--model tiny]
    python benchmarks/tops_sms.py --part sms &      # on two cores: the parts side by side, then all of it, from --work
    python benchmarks/tops_sms.py --part tops       # TOPS's ways anew in --out, SMS's stay as they are there
    python benchmarks/tops_sms_tables.py          # then: tables and figures for docs/methods

TOPS is asked as it comes, and as validation scenes would have it: its normalisation, transform and raters, what SMS
does inside the LLM and its c are chosen there and quoted on the test split. Criteria one by one are asked under the
chosen normalisation and transform. Plans whose mean budget a method cannot
meet are recorded with the reason. What was asked already is read from --work, so a run that was stopped goes on; so is
what --out holds of the same questions and model under the very same plan. Positions are those of the unpruned prompt
throughout (the paper of TOPS renumbers them: that is a way of its own here).
"""

import argparse
import json
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from rich.console import Console
from scipy.stats import spearmanr

from foveate import files
from foveate.errors import FoveateError
from foveate.methods import METHODS
from foveate.plan import Plan, as_dict
from foveate.search import calibrate
from foveate.tiny.branches import TOKENS
from instrument import Outcome, Split, pack

SHARES = {"22.2%": 2 / 9, "11.1%": 1 / 9, "5.6%": 1 / 18}
LARGEST = "22.2%"
VARIANTS = [(n, t) for n in ("mean", "minmax") for t in ("none", "rank", "log", "clip")]
CRITERIA = {"R": (1, 0, 0), "D": (0, 1, 0), "C": (0, 0, 1), "R+D": (1, 0.5, 0), "R+C": (1, 0, 0.5), "D+C": (0, 1, 1)}
RATERS = [("dynamic", "previous"), ("text", "previous"), ("last", "previous"), ("dynamic", "own")]
INSIDE: dict[str, dict[str, Any]] = {
    "stage 1 alone": {"stages": 1},
    "attention, three quarters": {"image": 0.75, "text": 0.75},
    "attention, three quarters, all text": {"image": 0.75, "text": 1.0},
    "attention, half": {"image": 0.5, "text": 0.5},
    "similarity, three quarters": {"image": 0.75, "text": 0.75, "correlation": "similarity"},
    "novelty, three quarters": {"image": 0.75, "text": 0.75, "correlation": "similarity", "sign_inside": -1},
}
SHUFFLES = 5
CAP = 0.9


class Results:
    """What was asked on one split, by name; `before` is what a results file holds of it."""

    def __init__(self, split: Split, before: dict[str, Any] | None = None) -> None:
        self.split, self.ways = split, {}
        same = before is not None and before["identity"] == split.key
        self.before = before["ways"] if before is not None and same else {}

    def known(self, plan: Plan | None) -> dict[str, Any] | None:
        """What was asked under this very plan before; settings that a plan file lacks have their defaults."""
        for way in self.before.values():
            if "hits" in way and (Plan.from_json(json.dumps(way["plan"])) if way["plan"] else None) == plan:
                return way
        return None

    def add(self, name: str, share: str, make: Callable[[], Plan | None], counts: Any = None) -> Outcome | None:
        """Ask, or write down why not; None where there is nothing new to look at."""
        try:
            plan = make()
            if counts is None and not name.startswith("sms I") and (known := self.known(plan)):
                self.ways[f"{name} {share}"] = known | {"name": name, "share": share}
                return None
            outcome = self.split.ask(f"{self.split.name}: {name} {share}", plan, counts)
        except FoveateError as e:
            self.ways[f"{name} {share}"] = {"name": name, "share": share, "cannot": str(e)}
            return None
        n = len(outcome.right)
        self.ways[f"{name} {share}"] = {
            "name": name,
            "share": share,
            "plan": as_dict(plan) if plan else None,
            "percent": round(100 * sum(outcome.right) / n, 2),
            "budget": round(fmean(outcome.budget) / TOKENS, 4),
            "hits": pack(outcome.right),
        }
        return outcome

    def best(self, names: list[str]) -> str:
        """The name with the highest mean accuracy over the shares at which all of them could be asked."""
        shares = [s for s in SHARES if all("percent" in self.ways.get(f"{n} {s}", {}) for n in names)]
        return max(names, key=lambda n: fmean(self.ways[f"{n} {s}"]["percent"] for s in shares))


def still(plan: Plan) -> Plan:
    """The plan with the positions of the unpruned prompt."""
    return replace(plan, positions="original")


def tops(share: str, depth: int, **options: Any) -> Callable[[], Plan]:
    return lambda: still(METHODS["tops"](SHARES[share], depth=depth, **options))


def fastv(share: str, depth: int) -> Plan:
    """The latest layer, 2 or 1, from which FastV can meet the mean."""
    for layer in (2, 1):
        keep = (SHARES[share] * depth - layer) / (depth - layer)
        if keep * TOKENS >= 1:
            return still(METHODS["fastv"](keep, layer=layer))
    raise FoveateError(f"one layer that sees everything is {1 / depth:.1%} already")


def choose_tops(val: Results, depth: int) -> dict[str, Any]:
    """Normalisation and transform by Stage I, then raters by both stages; on validation scenes."""
    named = {f"I, {n}, {t}": {"normalise": n, "transform": t} for n, t in VARIANTS}
    for name, options in named.items():
        for share in SHARES:
            val.add(name, share, tops(share, depth, stages=1, **options))
    chosen = named[val.best(list(named))]
    both = {f"I+II, {r}, {a}": {"raters": r, "attention": a} for r, a in RATERS}
    for name, options in both.items():
        for share in SHARES:
            val.add(name, share, tops(share, depth, **chosen, **options))
    return chosen | both[val.best(list(both))]


def ask_tops(test: Results, depth: int, chosen: dict[str, Any]) -> None:
    for share, keep in SHARES.items():
        for name in ("random", "uniform", "pool", "fastervlm", "divprune"):
            test.add(name, share, lambda name=name, keep=keep: still(METHODS[name](keep)))
        test.add("fastv", share, lambda share=share: fastv(share, depth))
        test.add("pyramiddrop", share, lambda keep=keep: still(METHODS["pyramiddrop"](keep, depth=depth)))
        for name, (beta, alpha, lam) in CRITERIA.items():
            weights = {"beta": beta, "alpha": alpha, "lam": lam} | {k: chosen[k] for k in ("normalise", "transform")}
            test.add(f"tops I, {name}", share, tops(share, depth, stages=1, **weights))
        for normalise, transform in VARIANTS:
            options = {"normalise": normalise, "transform": transform}
            test.add(f"tops I, {normalise}, {transform}", share, tops(share, depth, stages=1, **options))
        test.add("tops I", share, tops(share, depth, stages=1))
        test.add("tops II", share, tops(share, depth, stages=2, layers=(1, 4)))
        test.add("tops", share, tops(share, depth))
        test.add("tops as chosen", share, tops(share, depth, **chosen))
        published = partial(METHODS["tops"], keep, depth=depth, transform="none", positions="contiguous")
        test.add("tops as published, renumbered", share, published)


def ask_sms(test: Results, val: Results) -> dict[str, Any]:
    """Stage 1 at every budget with its controls; inside the LLM at the largest."""
    engine = val.split.engine
    once = [e for e in val.split.examples if e.id.endswith("-0")]
    story: dict[str, Any] = {"calibration_examples": len(once), "stage_1": {}}

    def made(share: str, **options: Any) -> Plan:
        plan = still(METHODS["sms"](CAP, **options))
        return val.split.remember(["calibrated", plan, share], lambda: calibrate(plan, once, SHARES[share], engine))

    for share in SHARES:
        outcome = test.add("sms I", share, lambda share=share: made(share, stages=1))
        if outcome is None:
            continue
        counts, mean = outcome.counts, round(fmean(outcome.counts))
        test.add("fixed count of sms I", share, lambda mean=mean: still(METHODS["fastervlm"](mean)))
        for seed in range(SHUFFLES):
            mixed = random.Random(seed).sample(counts, len(counts))
            test.add(f"shuffled counts of sms I, {seed}", share, lambda: None, counts=mixed)
        story["stage_1"][share] = describe(test.split, counts)
    for name, options in INSIDE.items():
        for where in (val, test):
            where.add(f"sms, {name}", LARGEST, lambda options=options: made(LARGEST, **options))
    story["chosen"] = max(INSIDE, key=lambda n: val.ways[f"sms, {n} {LARGEST}"].get("percent", 0.0))
    for sign, name in ((1, "nearest"), (-1, "farthest")):
        options = {"stages": 1, "score": "cosine", "sign": sign}
        test.add(f"sms I, cosine, {name}", LARGEST, lambda options=options: made(LARGEST, **options))
    return story


def describe(split: Split, counts: list[int]) -> dict[str, Any]:
    """Counts against what is in the scenes."""
    things = [len(s.layout.things) for s in split.scenes]
    patches = [int(n) for seen in split.looks for n in seen.things.sum(1)]
    tiers = [s.tier for s in split.scenes]

    def ranks(where: list[int]) -> dict[str, float]:
        pick = lambda x: [x[i] for i in where]  # noqa: E731
        pairs = {"things": things, "object patches": patches}
        # Where all are equal there is no rank.
        some = {name: x for name, x in pairs.items() if len(set(pick(x))) > 1 < len(set(pick(counts)))}
        return {name: round(float(spearmanr(pick(counts), pick(x)).statistic), 3) for name, x in some.items()}

    every = list(range(len(counts)))
    of = {t: [i for i in every if tiers[i] == t] for t in sorted(set(tiers))}
    return {
        "counts": counts, "things": things, "patches": patches, "tiers": tiers,
        "mean": {"all": fmean(counts)} | {t: fmean(counts[i] for i in where) for t, where in of.items()},
        "spearman": {"all": ranks(every)} | {t: ranks(where) for t, where in of.items() if len(where) > 2},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1000, help="at least so many held-out questions")
    parser.add_argument("--val-questions", type=int, default=600)
    parser.add_argument("--split", default="test", choices=["test", "val", "train"])
    parser.add_argument("--scenes", type=int, help="instead of --questions: so many scenes")
    parser.add_argument("--per-scene", type=int, default=4, help="questions of one scene at most")
    parser.add_argument("--model", default="tiny", help="the embedded model, or a folder of the same anatomy")
    parser.add_argument("--part", default="all", choices=["all", "tops", "sms"], help="sms alone writes no results")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("out/tops_sms"), help="where answers are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tops_sms.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="TOPS: the largest")  # published settings are asked on purpose
    args.work.mkdir(parents=True, exist_ok=True)
    files.check_target(args.out)
    before = json.loads(args.out.read_text()) if args.out.is_file() else {"splits": {}}
    known = before["splits"].get
    asked = Split(args.split, args.questions, args.per_scene, args.model, args.work, args.scenes)
    test = Results(asked, known(args.split))
    val = Results(Split("val", args.val_questions, args.per_scene, args.model, args.work), known("val"))
    depth = test.split.engine.facts.depth
    test.add("all tokens", "100%", lambda: None)
    val.add("all tokens", "100%", lambda: None)
    if args.part != "sms":
        chosen = choose_tops(val, depth)
        ask_tops(test, depth, chosen)
    if args.part != "tops":
        story = ask_sms(test, val)
    elif "sms" in before and test.before and val.before:
        story = before["sms"]
        for r in (test, val):
            r.ways |= {k: w for k, w in r.before.items() if "sms" in w["name"]}
    else:
        return  # the first of two parts
    if args.part == "sms":
        return
    data = {
        "command": "python benchmarks/tops_sms.py "
        + " ".join(
            f"--{k.replace('_', '-')} {v}"
            for k, v in vars(args).items()
            if v is not None and k not in ("work", "out", "part", "threads")
        ),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "chosen": chosen,
        "sms": story,
        "splits": {
            r.split.name: {
                "identity": r.split.key,
                "questions": len(r.split.facts),
                "kinds": [k for k, _ in r.split.facts],
                "tiers": [t for _, t in r.split.facts],
                "ways": r.ways,
            }
            for r in (val, test)
        },
    }
    files.write(args.out, (json.dumps(data, indent=1) + "\n").encode())
    console = Console()
    for r in (val, test):
        for way, w in r.ways.items():
            console.print(f"{r.split.name:5} {way:60} {w.get('percent', w.get('cannot'))}  {w.get('budget', '')}")


if __name__ == "__main__":
    main()
