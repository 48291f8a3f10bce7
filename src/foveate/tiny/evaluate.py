"""`python -m foveate.tiny.evaluate`: what the instrument can do and how it tells choices of visual tokens apart.

Held-out scenes only; every choice is made at the input of the decoder, kept tokens keep their positions. The prefix of
an image is shared between its questions wherever the choice does not depend on the question.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import AutoConfig

from foveate.tiny import picks, world
from foveate.tiny.branches import LLAVA, Frame, right_answers
from foveate.tiny.checkpoint import load, load_joint, verify
from foveate.tiny.look import Look, hide_image, look
from foveate.tiny.statistics import auc, holm, mean, paired, wilson
from foveate.tiny.vocabulary import QUESTION_KINDS, TIERS
from foveate.tiny.world import Scene

BUDGETS = {"22.2%": 2 / 9, "11.1%": 1 / 9, "5.6%": 1 / 18}
"""Shares of the visual tokens."""
_SCENES = 8
"""Scenes at a time: few enough for any memory, enough to fill two cores."""


def evaluate(scenes: int, folder: Path | None = None, dtype: torch.dtype = torch.bfloat16) -> dict[str, Any]:
    """All figures over the first `scenes` test scenes with up to 8 questions each, as plain data."""
    model, view, frame = instrument(folder, dtype)
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
        for name, share in BUDGETS.items():
            k = round(share * frame.tokens)
            hits |= {f"{method} {name}": ask(seen, k) for method, ask in asker.methods().items()}
        for method, each in hits.items():
            right.setdefault(method, []).append(each)
        _measure(curves, seen)
        previous = seen
    table = {method: torch.cat(parts) for method, parts in right.items()}
    return {
        "scenes": scenes,
        "questions": len(facts),
        "world": world.fingerprint(),
        "seconds": round(time.monotonic() - began, 1),
        "seconds_per_1000_full": round(1000 * full_seconds / len(facts), 1),
        "auc": {name: round(mean(values), 4) for name, values in curves.items()},
        "fastervlm_against_random_at_22.2%": paired(table["fastervlm 22.2%"], table["random 22.2%"]),
        "saliency_against_diversity": _by_tier(table, facts, "fastervlm", "divprune"),
        "accuracy": {method: _summary(hits, facts) for method, hits in table.items()},
    }


def instrument(folder: Path | None, dtype: torch.dtype) -> tuple[Any, Callable[[Sequence[Scene]], Look], Frame]:
    """The model in `folder` (the embedded one if None), how it sees scenes, and its prompt; either anatomy.

    Raises:
        FoveateError: a file is missing or damaged.
    """
    if folder is not None:
        verify(folder)
    if folder is not None and AutoConfig.from_pretrained(folder).model_type == "qwen2_5_vl":
        from foveate.tiny.qwen import FRAME
        from foveate.tiny.qwen import load as load_qwen
        from foveate.tiny.qwen import look as look_qwen

        model, _ = load_qwen(folder, dtype=dtype)
        return model, lambda scenes: look_qwen(model, scenes), FRAME
    model, _ = load(dtype=dtype, folder=folder)
    clip = load_joint(model, folder)
    return model, lambda scenes: look(model, clip, scenes), LLAVA


class Asker:
    """Asks the questions of a batch of scenes under one choice of visual tokens; answers are bool, one a question."""

    def __init__(self, model: Any, rng: np.random.Generator, frame: Frame = LLAVA) -> None:
        self.model, self.rng, self.frame = model, rng, frame

    def methods(self) -> dict[str, Callable[[Look, int], Tensor]]:
        """Name to choice, each (what was seen, tokens to keep) -> right or wrong."""
        return {
            "random": lambda s, k: self.each(s, torch.stack([self._any(k) for _ in s.questions])),
            "uniform": lambda s, k: self.some(s, picks.uniform(k, self.frame.tokens).expand(len(s.image), -1)),
            "pool": lambda s, k: self.given(s, *picks.pooled(s.image, k)),
            "fastervlm": lambda s, k: self.some(s, picks.top(s.cls, k)),
            "divprune": lambda s, k: self.some(s, picks.farthest(s.image, k)),
            "text": lambda s, k: self.each(s, picks.top(s.relevance, k)),
            "oracle": lambda s, k: self.each(
                s, torch.stack([picks.oracle(q, k, self.rng, self.frame) for q in s.questions])
            ),
        }

    def whole(self, seen: Look, image: Tensor) -> Tensor:
        """All tokens of `image`, which need not be the right one."""
        return self.given(seen, image, torch.arange(self.frame.tokens).expand(len(image), -1))

    def given(self, seen: Look, image: Tensor, kept: Tensor) -> Tensor:
        """These tokens at these places, for all questions of a scene."""
        with torch.no_grad():
            return right_answers(self.model, image, kept, seen.asked, self.frame)

    def some(self, seen: Look, kept: Tensor) -> Tensor:
        """The same tokens for all questions of a scene; kept is scenes x K."""
        return self.given(seen, _take(seen.image, kept), kept)

    def each(self, seen: Look, kept: Tensor) -> Tensor:
        """Other tokens for each question; kept is questions x K."""
        with torch.no_grad():
            image = _take(seen.image[seen.owner], kept)
            return right_answers(self.model, image, kept, [[q] for q in seen.questions], self.frame)

    def _any(self, k: int) -> Tensor:
        return torch.from_numpy(np.sort(self.rng.permutation(self.frame.tokens)[:k]))


def _take(image: Tensor, kept: Tensor) -> Tensor:
    return image.gather(1, kept[..., None].expand(-1, -1, image.shape[-1]))


def _measure(curves: dict[str, list[float]], seen: Look) -> None:
    curves["cls_thing"] += [auc(seen.cls[i], seen.things[i]) for i in range(len(seen.things))]
    curves["cls_needed"] += [auc(seen.cls[o], n) for o, n in zip(seen.owner.tolist(), seen.needed, strict=True)]
    curves["text_needed"] += [auc(r, n) for r, n in zip(seen.relevance, seen.needed, strict=True)]


def _by_tier(table: dict[str, Tensor], facts: list[tuple[str, str]], one: str, other: str) -> list[dict[str, Any]]:
    """Two methods side by side in every tier at every budget, with exact paired tests, Holm-corrected over all."""
    rows: list[dict[str, Any]] = []
    for tier in TIERS:
        where = torch.tensor([fact[1] == tier for fact in facts])
        for budget in BUDGETS:
            a, b = table[f"{one} {budget}"][where], table[f"{other} {budget}"][where]
            share = {name: round(100 * float(x.float().mean()), 2) for name, x in ((one, a), (other, b))}
            rows.append({"tier": tier, "kept": budget, "n": len(a), **share, "p": paired(a, b)})
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_corrected"] = p
    return rows


def _summary(hits: Tensor, facts: list[tuple[str, str]]) -> dict[str, Any]:
    """Accuracy in percent with its 95% interval, overall and by kind and tier."""

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
    tiers = {t: share([i for i, fact in enumerate(facts) if fact[1] == t]) for t in TIERS}
    return {**every, **kinds, **tiers}


def show(results: dict[str, Any], console: Console) -> None:
    """The results as a table."""
    columns = ("all", *QUESTION_KINDS, *TIERS)
    table = Table(title=f"{results['questions']} test questions, accuracy in %")
    for name in ("tokens kept", "95%", *columns):
        table.add_column(name, justify="left" if name == "tokens kept" else "right")
    for method, row in results["accuracy"].items():
        low, high = row["all"]["interval"]
        table.add_row(method, f"{low:.1f}-{high:.1f}", *(f"{row[c]['percent']:.1f}" for c in columns))
    console.print(table)
    for row in results["saliency_against_diversity"]:
        console.print(row)
    for name in ("auc", "fastervlm_against_random_at_22.2%", "seconds_per_1000_full", "seconds"):
        console.print(f"{name}: {results[name]}")


def main() -> None:
    """Read the command line, evaluate, print, and write the JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m foveate.tiny.evaluate", description=__doc__)
    parser.add_argument("--scenes", type=int, default=400, help="test scenes; 400 ask about 3,100 questions")
    parser.add_argument("--checkpoint", type=Path, help="another folder than the embedded one")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    args = parser.parse_args()
    results = evaluate(args.scenes, args.checkpoint)
    if args.out is not None:
        args.out.write_text(json.dumps(results, indent=1))
    show(results, Console(width=170))


if __name__ == "__main__":
    main()
