"""Every method on the instrument of pretrained parts, paired over the same held-out questions at equal mean budgets.

    python benchmarks/smol_methods.py --model OUT --data TEST --val VALIDATION [--questions 1000] [--slow-scenes 38]
    python benchmarks/smol_methods.py --part before tops sms inside   # some parts alone, from and into the same file;
        # all: controls before tops criteria sms inside rest switched

OUT: `python -m instruments.smol.build OUT`. TEST, VALIDATION: `python -m instruments.smol.examples DIR --split ...`.

Methods that cut at the input without reading the question are asked all --questions; those that work inside the LLM,
or read the question, those of the first --slow-scenes (compared with others on the questions that both were asked).
Choices (TOPS's normalisation and transform, SMS's c, P-Sigmoid's slope) are made on validation questions; plans that
`foveate search` finds are judged by `smol_search.py`. Positions are those of the unpruned prompt. What cannot meet a
budget is written down with the reason.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console

from foveate import FoveateError, Plan, files
from foveate.bench.statistics import compare, interval
from foveate.methods import METHODS
from foveate.methods.layerwise import layerwise
from foveate.methods.sized import sized
from foveate.methods.switches import merged
from foveate.plan import as_dict
from foveate.search import calibrate
from instruments.smol import pictures
from smol import Bench, Loaded, Outcome, Schedule, over

SHARES = {"22.2%": 2 / 9, "11.1%": 1 / 9, "5.6%": 1 / 18}
LAYERED = {"12.5%": 1 / 8} | SHARES
"""For methods inside the LLM, the budget of the paper on G-Search first."""
SLOPES = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
CRITERIA = {"R": (1, 0, 0), "D": (0, 1, 0), "C": (0, 0, 1), "R+D": (1, 0.5, 0), "R+C": (1, 0, 0.5), "D+C": (0, 1, 1)}
LATER = ((20, 26), (24, 27))
"""Layers for TOPS's second stage around those in which this model reads the picture, 21 to 23."""
VARIANTS = [(n, t) for n in ("mean", "minmax") for t in ("none", "rank")]
ALONE = ("tops", "tops I", "tops at 24, 27", "divprune", "fastervlm", "sms", "sms I", "ground truth")
"""Compared with all tokens."""
BEFORE = ("vispruner", "holov", "scope", "gots")
"""Of the rest, those that cut once, right before the LLM, and do not read the question."""
KEPT = ("what", "where", "exist", "chart")
"""Kinds of which it answers 75 % or more on `unseen` scenes."""
RANDOMS = 3
CAP, TOLERANCE = 0.9, 0.02


class Table:
    """Outcomes by name and budget, in one file."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.file = args, args.out
        self.data = json.loads(self.file.read_text()) if self.file.exists() else {"ways": {}, "chosen": {}}
        loaded = Loaded(args.model)
        self.all = Bench(loaded, args.data, args.work, args.questions)
        self.few = self.all.first(args.slow_scenes)
        self.val = Bench(loaded, args.val, args.work, args.choose)
        self.depth, self.tokens = self.all.depth, self.all.tokens

    def add(self, name: str, share: str, make: Callable[[], Plan | None], slow: bool = False) -> Outcome | None:
        """Ask, or write down why not."""
        bench = self.few if slow else self.all
        try:
            plan = make()
            outcome = bench.ask(f"{name} {share}", plan)
        except FoveateError as e:
            self.data["ways"][f"{name} {share}"] = {"name": name, "share": share, "cannot": str(e)}
            return None
        self.put(name, share, outcome, as_dict(plan) if plan else None, bench)
        return outcome

    def put(self, name: str, share: str, outcome: Outcome, plan: Any, bench: Bench) -> None:
        """Write one down."""
        row: dict[str, Any] = {"name": name, "share": share, "plan": plan} | scored(outcome.right)
        row |= {"budget": round(fmean(outcome.budget) / self.tokens, 4), "kinds": bench.by_kind(outcome)}
        if set(KEPT) <= set(bench.kinds):
            kept = [float(r) for r, kind in zip(outcome.right, bench.kinds, strict=True) if kind in KEPT]
            row["kept"] = [round(100 * x, 1) for x in (fmean(kept), *interval(kept))]
        self.data["ways"][f"{name} {share}"] = row | {"hits": "".join("01"[r] for r in outcome.right)}
        Console().print(f"{name} {share}: {row['percent']} ({row['low']} to {row['high']}) of {row['questions']}")
        files.write(self.file, (json.dumps(self.data, indent=1) + "\n").encode())

    def against(self, first: str, second: str) -> dict[str, Any] | None:
        """Paired over the questions both were asked."""
        a, b = (self.data["ways"].get(n, {}).get("hits") for n in (first, second))
        return paired(a, b) if a and b else None


def scored(right: Sequence[bool]) -> dict[str, Any]:
    """Per cent right with its interval, and of how many."""
    values = [float(r) for r in right]
    low, high = interval(values)
    found = {"percent": round(100 * fmean(values), 2), "low": round(100 * low, 1), "high": round(100 * high, 1)}
    return found | {"questions": len(values)}


def paired(one: str, other: str) -> dict[str, Any]:
    """The first minus the second, of their stored hits, over the questions both were asked."""
    n = min(len(one), len(other))
    return compare([float(c) for c in one[:n]], [float(c) for c in other[:n]]).to_dict() | {"questions": n}


def still(plan: Plan) -> Plan:
    """The plan with the positions of the unpruned prompt."""
    return replace(plan, positions="original")


def recognised(t: Table, hits: list[bool]) -> dict[str, dict[str, float]]:
    """Right answers by whether a name is concerned whose pictures no training has seen."""
    held = {thing.name for thing in pictures.things() if thing.test}
    groups: dict[str, list[bool]] = {"the answer": [], "in the question": [], "none": []}
    for question, hit in zip((q for s in t.all.scenes for q in s.questions), hits, strict=True):
        asks = held & set(re.findall(r"\w+", question.text))
        groups["the answer" if question.answer in held else "in the question" if asks else "none"].append(hit)
    return {k: {"percent": round(100 * fmean(of), 1), "questions": len(of)} for k, of in groups.items() if of}


def controls(t: Table) -> None:
    """All tokens, another picture, ground truth, chance."""
    if full := t.add("full", "100%", lambda: None):
        t.data["unseen name"] = recognised(t, full.right)
    t.put("another picture", "100%", t.all.wrong_picture(), None, t.all)
    for share, keep in SHARES.items():
        t.put("ground truth", share, t.all.oracle(round(keep * t.tokens)), None, t.all)


def before(t: Table) -> None:
    """Methods before the LLM that do not read the question."""
    for share, keep in SHARES.items():
        for seed in range(RANDOMS):
            t.add(f"random, seed {seed}", share, lambda keep=keep, seed=seed: still(METHODS["random"](keep, seed=seed)))
        for name in ("uniform", "pool", "fastervlm", "divprune"):
            t.add(name, share, lambda name=name, keep=keep: still(METHODS[name](keep)))


def scale(t: Table) -> dict[str, Any]:
    """How TOPS makes its criteria comparable: what validation likes best, over all budgets."""
    if "tops" not in t.data["chosen"]:
        found = {}
        for normalise, transform in VARIANTS:
            options = {"normalise": normalise, "transform": transform}
            plans = [still(METHODS["tops"](k, depth=t.depth, stages=1, **options)) for k in SHARES.values()]
            found[normalise, transform] = fmean(t.val.ask(f"validation: {options}", p).percent for p in plans)
        normalise, transform = max(found, key=lambda k: found[k])
        noted = {", ".join(k): round(v, 1) for k, v in found.items()}
        t.data["chosen"]["tops"] = {"normalise": normalise, "transform": transform, "validation": noted}
    return {k: t.data["chosen"]["tops"][k] for k in ("normalise", "transform")}


def tops(t: Table) -> None:
    """Stage I, both stages, both with the second in later layers, stage II alone."""
    ways: dict[str, dict[str, Any]] = {"tops I": {"stages": 1}, "tops": {}}
    ways |= {f"tops at {a}, {b}": {"layers": (a, b)} for a, b in LATER}
    ways |= {"tops II": {"stages": 2, "layers": (1, t.depth // 3)}}
    for name, options in ways.items():
        for share, keep in SHARES.items():
            make = lambda k=keep, o=options: still(METHODS["tops"](k, depth=t.depth, **scale(t), **o))  # noqa: E731
            t.add(name, share, make, slow=name != "tops I")


def criteria(t: Table) -> None:
    """TOPS's first stage by one or two of its criteria."""
    for share, keep in SHARES.items():
        for name, (beta, alpha, lam) in CRITERIA.items():
            weights = {"beta": beta, "alpha": alpha, "lam": lam, "stages": 1}
            make = lambda k=keep, w=weights: still(METHODS["tops"](k, depth=t.depth, **scale(t), **w))  # noqa: E731
            t.add(f"tops I, {name}", share, make)


def sms(t: Table) -> None:
    """Stage 1 and both stages at a mean of each budget, c found on validation pictures."""
    for share, keep in SHARES.items():
        for name, options in (("sms I", {"stages": 1}), ("sms", {})):

            def make(keep: float = keep, options: dict[str, Any] = options) -> Plan:
                once = [s.examples[0] for s in t.val.scenes]
                plan = still(METHODS["sms"](CAP, **options))
                try:
                    return calibrate(plan, once, keep, t.val.engine, progress=False)
                except FoveateError:  # counts are whole: two stages come within 0.0024 of a mean of 22.2 %
                    return calibrate(plan, once, keep, t.val.engine, tolerance=0.005, progress=False)

            t.add(name, share, make, slow=name == "sms")


def scheduled(t: Table, counts: list[int]) -> float:
    """Validation accuracy with so many tokens in each layer, by `Schedule`."""
    every = torch.ones(t.tokens, dtype=torch.bool)
    rows = over(t.val.scenes, f"searching: {sorted(set(counts), reverse=True)[:6]}")
    said = [hit for s in rows for hit in t.val.answers(s, every, watch=Schedule(t.val, s, counts))]
    return 100 * fmean(said)


def held(t: Table, plan: Plan) -> list[int]:
    """What each layer of a layer-wise plan sees."""
    at = {cut.at: cut.count(t.tokens) for cut in plan.cuts}
    counts = [t.tokens]
    for layer in range(1, t.depth):
        counts.append(at.get(layer, counts[-1]))
    return counts


def sloped(t: Table, share: str, keep: float) -> Plan:
    """P-Sigmoid with the slope that validation likes best."""
    plans = {s: METHODS["psigmoid"](keep, slope=s, depth=t.depth, tokens=t.tokens) for s in SLOPES}
    if (known := t.data["chosen"].get(f"psigmoid {share}")) is not None:
        return plans[known["slope"]]
    found = {s: scheduled(t, held(t, p)) for s, p in plans.items()}
    best = max(found, key=lambda s: found[s])
    t.data["chosen"][f"psigmoid {share}"] = {
        "slope": best,
        "validation": {str(k): round(v, 1) for k, v in found.items()},
    }
    return plans[best]


def own(t: Table, share: str, keep: float) -> Plan:
    """The same slope, ranked by what the question's words attend to in the layer itself, as our search does."""
    ranking = {"raters": "text", "attention": "own"}
    slope = t.data["chosen"][f"psigmoid {share}"]["slope"]
    return METHODS["psigmoid"](keep, slope=slope, depth=t.depth, tokens=t.tokens, **ranking)


def inside(t: Table) -> None:
    """FastV, PyramidDrop, P-Sigmoid with either ranking, a flat schedule."""
    for share, keep in LAYERED.items():
        for layer in (2, 1):
            rest = (keep * t.depth - layer) / (t.depth - layer)
            if rest * t.tokens >= 1:
                t.add("fastv", share, lambda r=rest, at=layer: still(METHODS["fastv"](r, layer=at)), slow=True)
                break
        t.add("pyramiddrop", share, lambda k=keep: still(METHODS["pyramiddrop"](k, depth=t.depth)), slow=True)
        t.add("psigmoid", share, lambda k=keep, at=share: sloped(t, at, k), slow=True)
        t.add("psigmoid, own", share, lambda k=keep, at=share: own(t, at, k), slow=True)
        flat = (keep * t.depth - 1) / (t.depth - 1)
        t.add("flat behind layer 0", share, lambda f=flat: layerwise([1.0, *[f] * (t.depth - 1)]), slow=True)


def rest(t: Table) -> None:
    """Everything else of the package for pictures, as it is set by default."""
    done = {"random", "uniform", "pool", "fastervlm", "divprune", "tops", "sms", "fastv", "pyramiddrop", "psigmoid"}
    names = [n for n in METHODS if n not in done | {"sts", "evs", "vidcom2"}]  # of a model's own; for videos
    for share in ("11.1%", "22.2%", "5.6%"):
        for name in names:

            def make(name: str = name, keep: float = SHARES[share]) -> Plan:
                return still(METHODS[name](keep))

            t.add(name, share, make, slow=name not in BEFORE)


def switched(t: Table) -> None:
    """What DivPrune and TOPS's first stage drop merged into what they keep, and attention told how many were."""
    for share, keep in SHARES.items():
        plans = {
            "divprune": lambda k=keep: still(METHODS["divprune"](k)),
            "tops I": lambda k=keep: still(METHODS["tops"](k, depth=t.depth, **scale(t), stages=1)),
        }
        for name, make in plans.items():
            t.add(f"{name}, merged", share, lambda m=make: merged(m()), slow=True)
            t.add(f"{name}, merged, sized", share, lambda m=make: sized(merged(m())), slow=True)


def pairs(t: Table) -> None:
    """The comparisons that the papers' claims are about."""
    wanted = [("psigmoid 12.5%", f"{b} 12.5%") for b in ("fastv", "flat behind layer 0", "pyramiddrop")]
    wanted += [("psigmoid, own 12.5%", "psigmoid 12.5%"), ("psigmoid, own 12.5%", "fastv 12.5%")]
    for share in SHARES:
        wanted += [(f"{a} {share}", f"{b} {share}") for a, b in (
            ("psigmoid", "fastv"), ("psigmoid", "flat behind layer 0"), ("psigmoid, own", "psigmoid"),
            ("tops", "tops I"), ("tops", "tops II"), *[(f"tops at {a}, {b}", "tops I") for a, b in LATER],
            ("sms", "sms I"), ("tops I", "fastervlm"), ("tops I", "divprune"), ("tops I", "sms I"),
            ("divprune", "fastervlm"), ("divprune", "random, seed 0"), ("ground truth", "random, seed 0"),
            *[("tops I", f"tops I, {c}") for c in CRITERIA], *[("tops I", b) for b in BEFORE],
            *[(f"{n}, merged{more}", n) for n in ("divprune", "tops I") for more in ("", ", sized")],
            ("tops I, merged, sized", "divprune, merged, sized"), ("divprune, merged, sized", "tops I"),
        )]  # fmt: skip
        wanted += [(f"{a} {share}", "full 100%") for a in ALONE]
    t.data["pairs"] = {f"{a} - {b}": found for a, b in wanted if (found := t.against(a, b))}
    files.write(t.file, (json.dumps(t.data, indent=1) + "\n").encode())


PARTS = {p.__name__: p for p in (controls, before, tops, criteria, sms, inside, rest, switched)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--slow-scenes", type=int, default=38, help="for methods inside the LLM")
    parser.add_argument("--choose", type=int, default=160, help="validation questions")
    parser.add_argument("--part", default=list(PARTS), nargs="*", choices=PARTS, help="none: the comparisons alone")
    parser.add_argument("--work", type=Path, default=Path("out/smol"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "smol.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(args)
    for name, part in PARTS.items():
        if name in args.part:
            part(table)
    pairs(table)


if __name__ == "__main__":
    main()
