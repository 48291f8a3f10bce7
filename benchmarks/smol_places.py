"""Questions that ask where a thing is, on the instrument of pretrained parts: are the thing's own tokens enough?

    python benchmarks/smol_places.py --model OUT --data VALIDATION

OUT, VALIDATION: as for `smol_methods.py`. All tokens that the question's box covers stay (of more than --counts, some
of them, evenly), alone or filled up to each count: by lot, by those nearest to the thing, by a regular grid. Figures
go to smol_places.json in benchmarks/results.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from foveate import files
from smol import Bench, Loaded
from smol_methods import scored

RESULTS = Path(__file__).parent / "results" / "smol_places.json"


def asking(bench: Bench, kind: str) -> Bench:
    """The questions of one kind."""
    for scene in bench.scenes:
        scene.questions = [q for q in scene.questions if q.kind == kind]
    bench.scenes = [s for s in bench.scenes if s.questions]
    return bench


def by_lot(others: Sequence[int], _own: Sequence[int], _side: int, seed: int) -> list[int]:
    """Others in any order."""
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return [others[i] for i in order.tolist()]


def around(others: Sequence[int], own: Sequence[int], side: int, _seed: int) -> list[int]:
    """Others from near to far."""
    return sorted(others, key=lambda t: min((t // side - o // side) ** 2 + (t % side - o % side) ** 2 for o in own))


FILLS = {"by lot": by_lot, "around": around}


def kept(bench: Bench, fill: str, count: int) -> list[list[Tensor]]:
    """A mask a question."""
    masks = []
    for number, scene in enumerate(bench.scenes):
        of = []
        for question in scene.questions:
            need = sorted(question.cells(bench.side))
            own = need if len(need) <= count else [need[i * len(need) // count] for i in range(count)]
            others, left = [t for t in range(bench.tokens) if t not in own], count - len(own)
            if fill == "a grid":
                more = [others[(2 * i + 1) * len(others) // (2 * left)] for i in range(left)]
            else:
                more = FILLS[fill](others, own, bench.side, number)[:left] if fill in FILLS else []
            of.append(torch.zeros(bench.tokens, dtype=torch.bool).index_fill_(0, torch.tensor(own + more), True))
        masks.append(of)
    return masks


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--work", type=Path, default=Path("out/smol"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = asking(Bench(Loaded(args.model), args.data, args.work), "where")
    everything = [[torch.ones(bench.tokens, dtype=torch.bool)] * len(s.questions) for s in bench.scenes]
    found = {"all tokens": scored(bench.each("all tokens", everything).right)}
    for count in args.counts:
        for fill in ("nothing", *FILLS, "a grid"):
            found[f"{fill}, {count}"] = row = scored(bench.each(fill, kept(bench, fill, count)).right)
            Console().print(f"filled up to {count}: {fill}", row)
    files.write(args.results, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
