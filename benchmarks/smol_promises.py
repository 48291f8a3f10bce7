"""Three searches over several calibration sets of the instrument of pretrained parts: one plan file a set and search.

    python -m instruments.smol.examples SET0 --split unseen --first 100 --scenes 80     # one folder a set, none alike
    python benchmarks/smol_promises.py --model OUT --plans PLANS --kinds psigmoid gsearch --sets SET0 SET1 ...
    python benchmarks/smol_search.py --model OUT --data TEST PLANS/*.json

The same as the commands, whose plans it writes, but the model is loaded once and each half of a set encoded once:

    foveate search gsearch --model OUT --dtype bfloat16 --data SET0 --out PLANS/gsearch-0.json \\
        --whole 2 --raters last --attention previous --stride 16 --tolerance 0.055      # the paper's form
    foveate search psigmoid --model OUT --dtype bfloat16 --data SET0 --out PLANS/psigmoid-0.json \\
        --keep 0.125 --raters last --attention previous --trials 4
    foveate search auto --model OUT --dtype bfloat16 --data SET0 --out PLANS/auto-0.json \\
        --metric likelihood --max-loss 0.02 --trials 12

Everything evaluated is kept in PLANS/set-N.study: a run that was stopped goes on, and one kind can follow another.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from foveate import FoveateError, Plan, data, files
from foveate.engines.hf import load
from foveate.search.auto import choose, explore
from foveate.search.halves import split
from foveate.search.helpers import fingerprint
from foveate.search.schedules import Effort, Ranking, find_schedule, find_slope
from foveate.search.session import Session
from foveate.search.study import Study

PAPER = Ranking("full", "last", "previous")
TOLERANCE = (0.055, 0.08)
"""What 300 questions to search on resolve, and what 150 do."""
STRIDE, KEEP, TRIALS, MAX_LOSS, PLANS = 16, 0.125, 4, 0.02, 12


def auto(session: Session) -> Plan:
    """The cheapest plan of few tries."""
    points = explore(session, PLANS, within=MAX_LOSS)
    return choose(session, points, MAX_LOSS, how={"cost": "flops", "trials": PLANS})


def gsearch(session: Session) -> Plan:
    """The paper's form."""
    return find_schedule(session, TOLERANCE[len(session.search.examples) < 300], stride=STRIDE, ranking=PAPER, whole=2)


KINDS: dict[str, Callable[[Session], Plan]] = {
    "gsearch": gsearch,
    "psigmoid": lambda s: find_slope(s, KEEP, ranking=PAPER, effort=Effort(trials=TRIALS)),
    "auto": auto,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sets", type=Path, nargs="+", required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--plans", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.plans.mkdir(parents=True, exist_ok=True)
    engine = load(args.model, dtype="bfloat16")
    for folder in args.sets:
        examples = data.load(folder)
        study = Study(args.plans / f"{folder.name}.study", folder.name, {"data": fingerprint(examples)})
        session = Session(engine, split(examples), "likelihood", study)
        for kind in args.kinds:
            out = args.plans / f"{kind}-{folder.name}.json"
            if out.exists():
                continue
            try:
                plan = KINDS[kind](session)
            except FoveateError as e:  # data that cannot resolve the tolerance: part of the answer
                Console().print(out.stem, f"refused: {e}")
                continue
            files.write(out, (plan.to_json() + "\n").encode())
            Console().print(out.stem, plan.note)


if __name__ == "__main__":
    main()
