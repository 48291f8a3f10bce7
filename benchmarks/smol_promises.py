"""Searches over several calibration sets of the instrument of pretrained parts: one plan file a set and search.

    python -m instruments.smol.examples SET0 --split unseen --first 100 --scenes 80     # one folder a set, none alike
    python benchmarks/smol_promises.py --model OUT --plans PLANS --kinds psigmoid gsearch --sets SET0 SET1 ...
    python benchmarks/smol_promises.py --model OUT --plans PLANS --judge --sets SET0 SET1 ...     # each on the others
    python benchmarks/smol_search.py --model OUT --data TEST PLANS/*.json

The same as the commands, whose plans it writes, but the model is loaded once and each half of a set encoded once:

    foveate search gsearch --model OUT --dtype bfloat16 --data SET0 --out PLANS/gsearch-0.json \\
        --stride 16 --tolerance 0.055 --whole 2 --raters last --attention previous     # `ours`: without the last three
    foveate search psigmoid --model OUT --dtype bfloat16 --data SET0 --out PLANS/psigmoid-0.json \\
        --keep 0.125 --raters last --attention previous --trials 4
    foveate search auto --model OUT --dtype bfloat16 --data SET0 --out PLANS/auto-0.json \\
        --metric likelihood --max-loss 0.02 --trials 12

Everything evaluated is kept in PLANS/set-N.study: a run that was stopped goes on, and one kind can follow another.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console

from foveate import FoveateError, Plan, data, files
from foveate.engines.hf import load
from foveate.engines.loading import Engine
from foveate.search.auto import choose, explore
from foveate.search.halves import split
from foveate.search.promise import error
from foveate.search.schedules import Effort, Ranking, find_schedule, find_slope
from foveate.search.session import Session
from foveate.search.study import Study

PAPER = Ranking("full", "last", "previous")
TOLERANCE = {300: 0.055, 150: 0.08, 0: 0.1}
"""What so many questions to search on resolve."""
STRIDE, KEEP, TRIALS, MAX_LOSS, PLANS = 16, 0.125, 4, 0.02, 12


def auto(session: Session) -> Plan:
    """The cheapest plan of few tries."""
    points = explore(session, PLANS, within=MAX_LOSS)
    return choose(session, points, MAX_LOSS, how={"cost": "flops", "trials": PLANS})


def gsearch(session: Session, ranking: Ranking = PAPER, whole: int = 2) -> Plan:
    """The paper's form."""
    resolved = next(loss for n, loss in TOLERANCE.items() if len(session.search.examples) >= n)
    return find_schedule(session, resolved, stride=STRIDE, ranking=ranking, whole=whole)


KINDS: dict[str, Callable[[Session], Plan]] = {
    "gsearch": gsearch,
    "ours": lambda s: gsearch(s, Ranking(), 1),
    "psigmoid": lambda s: find_slope(s, KEEP, ranking=PAPER, effort=Effort(trials=TRIALS)),
    "auto": auto,
}


def opened(engine: Engine, folder: Path, plans: Path) -> Session:
    """A set with all that is known of it."""
    examples = data.load(folder)
    study = Study(plans / f"{folder.name}.study", folder.name, {"data": data.fingerprint(examples)})
    return Session(engine, split(examples), "likelihood", study)


def searched(engine: Engine, sets: list[Path], kinds: list[str], plans: Path) -> None:
    """A plan file a set and kind."""
    for folder in sets:
        session = opened(engine, folder, plans)
        for kind in kinds:
            out = plans / f"{kind}-{folder.name}.json"
            if out.exists():
                continue
            try:
                plan = KINDS[kind](session)
            except FoveateError as e:  # data that cannot resolve the tolerance: part of the answer
                Console().print(out.stem, f"refused: {e}")
                continue
            files.write(out, (plan.to_json() + "\n").encode())
            Console().print(out.stem, plan.note)


def judged(engine: Engine, sets: list[Path], kinds: list[str], plans: Path, out: Path) -> None:
    """What each plan lost on the halves of the other sets that no search saw."""
    sessions = {folder.name: opened(engine, folder, plans) for folder in sets}
    rows: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for kind, file in ((k, f) for k in kinds for f in sorted(plans.glob(f"{k}-*.json"))):
        plan = Plan.from_json(file.read_text())
        halves = {n: s.held for n, s in sessions.items() if file.stem != f"{kind}-{n}"}
        lost = {n: half.losses(half.evaluate([plan])[0]) for n, half in halves.items()}
        every = [x for of in lost.values() for x in of]
        promised = (plan.made or {})["held_out"]["upper"]
        rows[file.stem] = {
            "promised": promised, "loss": round(fmean(every), 4), "error": round(error(every), 4),
            "within": fmean(every) <= promised, "sets": {n: len(of) for n, of in lost.items()},
        }  # fmt: skip
        files.write(out, (json.dumps(rows, indent=1) + "\n").encode())
        Console().print(file.stem, rows[file.stem])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--plans", type=Path, required=True)
    parser.add_argument("--judge", action="store_true", help="do not search: judge each plan on the other sets")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "smol_promises.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.plans.mkdir(parents=True, exist_ok=True)
    engine = load(args.model, dtype="bfloat16")
    if args.judge:
        judged(engine, args.sets, args.kinds, args.plans, args.out)
    else:
        searched(engine, args.sets, args.kinds, args.plans)


if __name__ == "__main__":
    main()
