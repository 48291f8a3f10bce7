"""What each method costs on a 0.5B-class LLaVA shape, part by part, beside its oracle; small enough for one CPU core.

    python benchmarks/cost.py [--method divprune,fastv] [--keep 0.333,0.111] [--batch-sizes 1,4] [--lengths 1,16]

Weights are random: the shape sets the time. Every cell of batch size and answer length is written when it is done, and
not measured again by the same command.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import shapes
from foveate import files
from foveate.bench import cost, environment
from foveate.bench.ways import line_up
from foveate.cli import choose, tables

# [CLS] attention of random weights says nothing; TOPS is given the transform that its docstring advises for real ones.
SETTINGS: dict[str, dict[str, Any]] = {"tops": {"transform": "rank"}}


def measure(args: argparse.Namespace) -> None:
    """Measure every cell that the file does not hold yet."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, args.dtype)
    engine = shapes.build(args.shape, "cpu", dtype)
    depth = engine.facts.depth

    def build(name: str, keep: str) -> Any:
        return choose.build(name, keep, SETTINGS.get(name, {}), depth)

    ways = line_up(args.method.split(","), args.keep.split(","), build)
    key = {"shape": args.shape, "ways": [w.to_dict() for w in ways], "repeats": args.repeats, "dtype": str(dtype)}
    key |= {"hardware": environment.hardware(engine.model.device), "versions": environment.versions()}
    old = json.loads(args.out.read_text()) if args.out.exists() else {}
    cells = old.get("cells", []) if {k: old.get(k) for k in key} == json.loads(json.dumps(key)) else []
    wanted = [(b, n) for b in map(int, args.batch_sizes.split(",")) for n in map(int, args.lengths.split(","))]
    done = {(c["batch"], c["length"]) for c in cells}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for batch, length in (c for c in wanted if c not in done):
            whole = shapes.prompt(engine, args.shape, batch)
            task = bar.add_task(f"{args.shape}, batch {batch}, {length} tokens", total=args.repeats + cost.WARM_UPS)
            smaller = shapes.smaller(engine, args.shape, whole)
            for found in cost.measure(engine, whole, smaller, ways, length, args.repeats):
                bar.advance(task)
                if found is not None:
                    cells.append(found)
            data = key | {"commit": environment.commit(), "cells": cells}
            files.write(args.out, (json.dumps(data, indent=1) + "\n").encode())
    console = Console(width=140)
    console.print(f"{args.shape}, random weights, {dtype}: {args.out}")
    for cell in cells:
        for part in tables.cost(cell):
            console.print(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llava-0.5b")
    parser.add_argument("--method", default="fastervlm,divprune,fastv,pyramiddrop,tops")
    parser.add_argument("--keep", default="0.333,0.111")
    parser.add_argument("--batch-sizes", default="1,4")
    parser.add_argument("--lengths", default="1,16", help="of the answers, in tokens")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cost.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measure(args)


if __name__ == "__main__":
    main()
