"""`python -m instruments.llava.expectation --states DIR`: has the model been taught to expect few visual tokens?

Asks the same held-out questions of the model as it was after each of the last lessons, from all tokens and from fewer.
A model that expects few answers better from few than from all. The states are those that training leaves behind.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from foveate.tiny import world
from foveate.tiny.asking import Asker
from foveate.tiny.branches import TOKENS
from foveate.tiny.checkpoint import load, load_joint
from foveate.tiny.look import look
from instruments.llava.recipe import RECIPE
from instruments.llava.state import load_state, write_json

_CHOICES = {"oracle 11.1%": 64, "divprune 11.1%": 64, "fastervlm 11.1%": 64, "random 11.1%": 64, "random 22.2%": 128}
_SCENES = 8


def measure(states: Path, checkpoint: Path | None, scenes: int, lessons: int = 4) -> list[dict[str, Any]]:
    """One row a lesson: its name, steps that saw all tokens by its end, accuracy from all, and what fewer change.

    Raises:
        FoveateError: a state is missing or is none.
    """
    model, _ = load(dtype=torch.bfloat16, folder=checkpoint)
    clip = load_joint(model, checkpoint)
    named = dict(model.named_parameters())
    rows, seen_all = [], 0
    for lesson in RECIPE.lessons:
        seen_all += lesson.stage.steps if lesson.answer and min(lesson.budgets) == TOKENS else 0
        if lesson not in RECIPE.lessons[-lessons:]:
            continue
        tensors, _ = load_state(states / f"{lesson.stage.name}.safetensors")
        with torch.no_grad():
            for name, tensor in tensors.items():
                part, _, weight = name.partition("/")
                if part == "master":
                    named[weight].copy_(tensor)
        hits = _ask(model, clip, scenes, lesson.stage.name)
        full = 100 * float(hits.pop("full").float().mean())
        less = {name: 100 * float(each.float().mean()) - full for name, each in hits.items()}
        rows.append({"after": lesson.stage.name, "steps": seen_all, "full": full, **less})
    return rows


def _ask(model: Any, clip: Any, scenes: int, name: str) -> dict[str, Tensor]:
    asker = Asker(model, np.random.Generator(np.random.PCG64(0)))
    right: dict[str, list[Tensor]] = {}
    for start in track(range(0, scenes, _SCENES), description=name, transient=True):
        seen = look(model, clip, [world.scene("test", i) for i in range(start, min(start + _SCENES, scenes))])
        hits = {"full": asker.whole(seen, seen.image)}
        hits |= {choice: asker.methods()[choice.split()[0]](seen, k) for choice, k in _CHOICES.items()}
        for choice, each in hits.items():
            right.setdefault(choice, []).append(each)
    return {choice: torch.cat(parts) for choice, parts in right.items()}


def main() -> None:
    """Read the command line, measure, print, and write the JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m instruments.llava.expectation", description=__doc__)
    parser.add_argument("--states", type=Path, required=True, help="the folder that was training's --out")
    parser.add_argument("--checkpoint", type=Path, help="another checkpoint than the embedded one, for the rest of it")
    parser.add_argument("--scenes", type=int, default=120, help="test scenes; 120 ask about 940 questions")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    args = parser.parse_args()
    rows = measure(args.states, args.checkpoint, args.scenes)
    if args.out is not None:
        write_json(args.out, rows)
    table = Table(title="accuracy from all tokens in %, and what fewer change in points")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            *(f"{v:+.1f}" if n in _CHOICES else f"{v:.1f}" if n == "full" else str(v) for n, v in row.items())
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
