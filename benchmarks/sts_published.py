"""Two questions about the published system: does reading the question help it, and what does serving many budgets cost?

    python benchmarks/sts_published.py reads mild-225 shut-225       # stored answers, by how large a place they need
    python benchmarks/sts_published.py lambdas mild-225 one02-225 one09-225 one4-225 --scenes 200

`sts_many.py` has to have trained its runs (its docstring has the commands), and for `reads` to have tested them.
`lambdas`: runs of one lambda each, at fixed counts and where their own stop lets picks stand; the first run, trained
with lambda drawn and told, is dialled to the same mean on the same test scenes. No answer is read for that. Figures go
to `reads/NAME` and `lambdas/NAME` in benchmarks/results/sts.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from foveate import FoveateError, files
from foveate.pointer.train.calibrate import calibrated
from foveate.tiny import world
from sts_figures import against, said
from sts_many import TOKENS, learned, made
from sts_many import world as seen
from sts_ways import first, walked
from sts_world import load_model

SMALL = 12
"""Patches of 576 that the answer needs at most: a thing of middling size, or a letter."""
COUNTS = (32, 64)
MOST = 127
"""Picks at most, as in training."""


def reads(args: argparse.Namespace, known: dict[str, Any]) -> None:
    """The first run minus the second, over all questions and over those whose answer sits in a small or large place."""
    one, other = args.names
    found: dict[str, Any] = {}
    for budget in ("056", "111"):
        facts = [known[f"{n}/{budget}"] for n in (one, other)]
        asked = [world.scene("test", i, 8).questions for i in range(min(f["scenes"] for f in facts))]
        sizes = torch.tensor([int(world.patches(list(q.boxes)).sum()) for of in asked for q in of])
        right = [
            torch.tensor([c == "1" for c in f["ways"]["fixed"]["right"]])[: len(sizes)].split([len(a) for a in asked])
            for f in facts
        ]
        for name, chosen in (("all", sizes >= 0), ("small", sizes <= SMALL), ("large", sizes > SMALL)):
            masks = chosen.split([len(a) for a in asked])
            mine, theirs = ([r[m] for r, m in zip(rows, masks, strict=True)] for rows in right)
            entry: dict[str, Any] = {"questions": int(chosen.sum())} | against(mine, theirs)
            entry |= {n: 100 * float(torch.cat(r).float().mean()) for n, r in ((one, mine), (other, theirs))}
            found[f"{budget} {name}"] = entry
            print(f"{budget} {name}", said(entry), f"{entry[one]:.1f} {entry[other]:.1f}", flush=True)
    known[f"reads/{one}/{other}"] = {"small": SMALL, "ways": found}


def lambdas(args: argparse.Namespace, known: dict[str, Any]) -> None:
    """Each run beside the first one: at two fixed counts, and by its own stop, the first run dialled to its mean."""
    scenes = seen(args, load_model(), "test", args.scenes, 8)
    per = [sum(len(a) for s, a in scenes.items if s == n) for n in range(args.scenes)]
    many, *ones = args.names
    dial, path = walk(args, many, scenes)
    fixed = {k: scenes.answers(first(path.order_BT, [k] * scenes.size)) for k in COUNTS}
    for name in ones:
        single, own = walk(args, name, scenes)
        counts = own.standing(single.config, 0.0).sum(1).tolist()
        entry: dict[str, Any] = {"many": many, "scenes": args.scenes, "own_mean": fmean(counts)}
        hits = {f"{k}": scenes.answers(first(own.order_BT, [k] * scenes.size)) for k in COUNTS}
        theirs: dict[str, list[Tensor]] = {f"{k}": h for k, h in fixed.items()}
        try:
            now = calibrated(dial, [(path, TOKENS)], fmean(counts) / TOKENS)
            dialled = path.standing(now.config, now.config.stop_bias).sum(1).tolist()
            theirs["own stop"] = scenes.answers(first(path.order_BT, dialled))
            hits["own stop"] = scenes.answers(first(own.order_BT, counts))
            entry["dialled_mean"] = fmean(dialled)
        except FoveateError as e:
            entry["refused"] = str(e)
        print(name, {k: v for k, v in entry.items() if k != "many"}, flush=True)
        for at, mine in hits.items():
            pair = against(torch.cat(theirs[at]).split(per), torch.cat(mine).split(per))
            each = {n: 100 * float(torch.cat(h).float().mean()) for n, h in ((name, mine), (many, theirs[at]))}
            entry[at] = pair | each
            print(f"{at}: {each}; {many} minus it", said(pair), flush=True)
        known[f"lambdas/{name}"] = entry


def walk(args: argparse.Namespace, name: str, scenes: Any) -> tuple[Any, Any]:
    """A run's selector, and its picks for each question."""
    selector, _ = made(args)
    selector.load_state_dict(learned(args.out / name))
    return selector.eval(), walked(selector, scenes, MOST)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["reads", "lambdas"])
    parser.add_argument("names", nargs="+", help="runs in --out, the one to compare first")
    parser.add_argument("--scenes", type=int, default=200, help="test scenes")
    parser.add_argument("--out", type=Path, default=Path("out/sts"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/sts.json"))
    args = parser.parse_args()
    vars(args).update(which="published", text=2, config=["group=4"], recipe=[], covering=False, seed=0, steps=200)
    torch.set_num_threads(1)
    known = json.loads(args.results.read_text())
    {"reads": reads, "lambdas": lambdas}[args.work](args, known)
    files.write(args.results, (json.dumps(dict(sorted(known.items())), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
