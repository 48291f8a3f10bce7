"""What the cost scripts share: their options, the loop over cells, the file that grows cell by cell."""

import argparse
import gc
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


def arguments(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """The options of a cost script."""
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, type=type(value))


def measure(args: argparse.Namespace, device: str, dtype: torch.dtype, out: Path) -> None:
    """Measure every cell that the file does not hold yet."""
    out.parent.mkdir(parents=True, exist_ok=True)
    engine = shapes.build(args.shape, device, dtype)
    depth = engine.facts.depth

    def build(name: str, keep: str) -> Any:
        return choose.build(name, keep, SETTINGS.get(name, {}), depth)

    ways = line_up(args.method.split(","), args.keep.split(","), build)
    key = {"shape": args.shape, "ways": [w.to_dict() for w in ways], "repeats": args.repeats, "dtype": str(dtype)}
    key |= {"hardware": environment.hardware(engine.model.device), "versions": environment.versions()}
    old = json.loads(out.read_text()) if out.exists() else {}
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
            files.write(out, (json.dumps(data, indent=1) + "\n").encode())
    console = Console(width=140)
    console.print(f"{args.shape}, random weights, {dtype}: {out}")
    for cell in cells:
        for part in tables.cost(cell):
            console.print(part)
    del engine
    gc.collect()
