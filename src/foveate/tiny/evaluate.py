"""`python -m foveate.tiny.evaluate`: what the instrument can do and how it tells choices of visual tokens apart.

Held-out scenes only; every choice is made at the input of the decoder, kept tokens keep their positions.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from foveate.tiny import world
from foveate.tiny.asking import BUDGETS, Asker, Opened, instrument
from foveate.tiny.look import Look, hide_image
from foveate.tiny.statistics import auc, holm, mean, paired, wilson
from foveate.tiny.vocabulary import EVERY_TIER, QUESTION_KINDS, TIERS, UNSEEN
from foveate.tiny.world import Scene

Answers = tuple[dict[str, Tensor], list[tuple[str, str]]]
"""For each way of asking, which questions were answered right; and each question's kind and tier."""
_SCENES = 8
"""Scenes at a time: few enough for any memory, enough to fill two cores."""


def evaluate(
    scenes: int,
    folder: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    opened: Callable[[Path | None, torch.dtype], Opened] = instrument,
) -> dict[str, Any]:
    """All figures over the first `scenes` test scenes with up to 8 questions each, as plain data.

    Beside them, and counted apart, half as many scenes of each tier that no seed draws.
    """
    model, view, frame = opened(folder, dtype)
    asker = Asker(model, np.random.Generator(np.random.PCG64(0)), frame)
    right: dict[str, list[Tensor]] = {}
    curves: dict[str, list[float]] = {"cls_thing": [], "cls_needed": [], "text_needed": []}
    facts: list[tuple[str, str]] = []
    previous: Look | None = None
    began, full_seconds = time.monotonic(), 0.0
    for start in track(range(0, scenes, _SCENES), description="scenes", transient=True):
        shown = [world.scene("test", i) for i in range(start, min(start + _SCENES, scenes))]
        clock = time.monotonic()
        seen = view(shown)
        facts += [(q.kind, q.tier) for s in shown for q in s.questions]
        hits = {"full": asker.whole(seen, seen.image)}
        full_seconds += time.monotonic() - clock
        other = seen.image.roll(1, 0) if len(shown) > 1 else (previous or seen).image
        hits["wrong image"] = asker.whole(seen, other)
        with hide_image(model, frame=frame):
            hits["image hidden from the last third of layers"] = asker.whole(seen, seen.image)
        for method, each in (hits | asker.chosen(seen)).items():
            right.setdefault(method, []).append(each)
        _measure(curves, seen)
        previous = seen
    table = {method: torch.cat(parts) for method, parts in right.items()}
    unseen = {tier: _unseen(tier, max(1, scenes // 2), asker, view) for tier in UNSEEN}
    duels = [(table, facts), *unseen.values()]
    return {
        "scenes": scenes,
        "questions": len(facts),
        "world": world.fingerprint(),
        "seconds": round(time.monotonic() - began, 1),
        "seconds_per_1000_full": round(1000 * full_seconds / len(facts), 1),
        "auc": {name: round(mean(values), 4) for name, values in curves.items()},
        "fastervlm_against_random_at_22.2%": paired(table["fastervlm 22.2%"], table["random 22.2%"]),
        "saliency_against_diversity": _by_tier(duels, "fastervlm", "divprune"),
        "accuracy": {method: _summary(hits, facts, TIERS) for method, hits in table.items()},
        "unseen": {
            tier: {method: _summary(hits, asked, ()) for method, hits in answers.items()}
            for tier, (answers, asked) in unseen.items()
        },
    }


def _unseen(tier: str, scenes: int, asker: Asker, view: Callable[[Sequence[Scene]], Look]) -> Answers:
    """What is answered about the first `scenes` test scenes of `tier`, from all tokens and from every choice."""
    right: dict[str, list[Tensor]] = {}
    facts: list[tuple[str, str]] = []
    for start in track(range(0, scenes, _SCENES), description=f"{tier} scenes", transient=True):
        shown = [world.scene("test", i, tier=tier) for i in range(start, min(start + _SCENES, scenes))]
        seen = view(shown)
        facts += [(q.kind, q.tier) for s in shown for q in s.questions]
        for method, each in ({"full": asker.whole(seen, seen.image)} | asker.chosen(seen)).items():
            right.setdefault(method, []).append(each)
    return {method: torch.cat(parts) for method, parts in right.items()}, facts


def _measure(curves: dict[str, list[float]], seen: Look) -> None:
    curves["cls_thing"] += [auc(seen.cls[i], seen.things[i]) for i in range(len(seen.things))]
    curves["cls_needed"] += [auc(seen.cls[o], n) for o, n in zip(seen.owner.tolist(), seen.needed, strict=True)]
    curves["text_needed"] += [auc(r, n) for r, n in zip(seen.relevance, seen.needed, strict=True)]


def _by_tier(answers: Iterable[Answers], one: str, other: str) -> list[dict[str, Any]]:
    """Two methods side by side in every tier at every budget, with exact paired tests, Holm-corrected over all."""
    rows: list[dict[str, Any]] = []
    for table, facts in answers:
        tiers = [tier for _, tier in facts]
        for tier in (t for t in EVERY_TIER if t in tiers):
            where = torch.tensor([t == tier for t in tiers])
            for budget in BUDGETS:
                a, b = table[f"{one} {budget}"][where], table[f"{other} {budget}"][where]
                share = {name: round(100 * float(x.float().mean()), 2) for name, x in ((one, a), (other, b))}
                rows.append({"tier": tier, "kept": budget, "n": len(a), **share, "p": paired(a, b)})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_corrected"] = p
    return rows


def _summary(hits: Tensor, facts: list[tuple[str, str]], among: Sequence[str]) -> dict[str, Any]:
    """Accuracy in percent with its 95% interval, overall, by kind and by the tiers named in `among`."""

    def share(where: list[int]) -> dict[str, Any]:
        n, right = len(where), int(hits[where].sum()) if where else 0
        low, high = wilson(right, n)
        return {
            "n": n,
            "percent": round(100 * right / max(1, n), 2),
            "interval": [round(100 * low, 2), round(100 * high, 2)],
        }

    every = {"all": share(list(range(len(facts))))}
    kinds = {k: share([i for i, fact in enumerate(facts) if fact[0] == k]) for k in QUESTION_KINDS}
    tiers = {t: share([i for i, fact in enumerate(facts) if fact[1] == t]) for t in among}
    return {**every, **kinds, **tiers}


def _table(accuracy: dict[str, Any], title: str) -> Table:
    columns = list(accuracy["full"])
    table = Table(title=title)
    for name in ("tokens kept", "95%", *columns):
        table.add_column(name, justify="left" if name == "tokens kept" else "right")
    for method, row in accuracy.items():
        low, high = row["all"]["interval"]
        table.add_row(method, f"{low:.1f}-{high:.1f}", *(f"{row[c]['percent']:.1f}" for c in columns))
    return table


def show(results: dict[str, Any], console: Console) -> None:
    """The results as tables."""
    console.print(_table(results["accuracy"], f"{results['questions']} test questions, accuracy in %"))
    for tier, accuracy in results["unseen"].items():
        console.print(_table(accuracy, f"{accuracy['full']['all']['n']} about {tier} scenes, which training never saw"))
    for row in results["saliency_against_diversity"]:
        console.print(row)
    for name in ("auc", "fastervlm_against_random_at_22.2%", "seconds_per_1000_full", "seconds"):
        console.print(f"{name}: {results[name]}")


def main(
    prog: str = "foveate.tiny.evaluate", opened: Callable[[Path | None, torch.dtype], Opened] = instrument
) -> None:
    """Read the command line, evaluate, print, and write the JSON if asked to."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=__doc__)
    parser.add_argument("--scenes", type=int, default=400, help="test scenes; 400 ask about 3,100 questions")
    parser.add_argument("--checkpoint", type=Path, help="another folder than the embedded one")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    args = parser.parse_args()
    results = evaluate(args.scenes, args.checkpoint, opened=opened)
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1))
    show(results, Console(width=170))


if __name__ == "__main__":
    main()
