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

from foveate import files
from smol import Bench, Fill, Loaded, by_lot
from smol_methods import scored

RESULTS = Path(__file__).parent / "results" / "smol_places.json"


def asking(bench: Bench, kind: str) -> Bench:
    """The questions of one kind."""
    for scene in bench.scenes:
        scene.questions = [q for q in scene.questions if q.kind == kind]
    bench.scenes = [s for s in bench.scenes if s.questions]
    return bench


def around(own: Sequence[int], side: int, count: int, _generator: torch.Generator) -> list[int]:
    """Those nearest to the thing."""
    far = lambda t: min((t // side - o // side) ** 2 + (t % side - o % side) ** 2 for o in own)  # noqa: E731
    return sorted((t for t in range(side**2) if t not in own), key=far)[:count]


def grid(own: Sequence[int], side: int, count: int, _generator: torch.Generator) -> list[int]:
    """Others at even distances."""
    others = [t for t in range(side**2) if t not in own]
    return [others[(2 * i + 1) * len(others) // (2 * count)] for i in range(count)]


FILLS: dict[str, Fill] = {"nothing": lambda *_: [], "by lot": by_lot, "around": around, "a grid": grid}


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
        for name, fill in FILLS.items():
            found[f"{name}, {count}"] = row = scored(bench.each(name, bench.told(count, fill)).right)
            Console().print(f"filled up to {count}: {name}", row)
    files.write(args.results, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
