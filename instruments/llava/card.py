"""`python -m instruments.llava.card --checkpoint DIR`: the model card, from the curves and the measured results."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from foveate.tiny.seeds import WORLD
from foveate.tiny.vocabulary import QUESTION_KINDS, TIERS, WORDS
from instruments.llava.course import Course
from instruments.llava.lessons import Lesson
from instruments.llava.recipe import RECIPE, Recipe
from instruments.llava.stage import Stage
from instruments.llava.state import write_bytes

_CARD = """\
# Foveate's instrument

A LLaVA-1.5 in miniature, trained from nothing on a synthetic world by the code in `instruments.llava`. It exists to
measure methods that drop visual tokens. It knows nothing of photographs.

| part | what it is |
|---|---|
| vision tower | CLIP ViT, 192 px, patch 8, 24 x 24 = 576 visual tokens and [CLS], 6 layers of width 192 |
| projector | MLP, 192 to 256, reads the last vision layer but one |
| decoder | Llama, 10 layers of width 256, tied embeddings, {words} words |
| text tower | CLIP's, 2 layers of width 128, joint space of 128: `joint.safetensors`, by `foveate.tiny.load_joint` |

`model.safetensors` loads with `AutoModelForImageTextToText` and `AutoProcessor`. The vision tower is stored once.
Prompt: `USER: <image> what color is the circle? ASSISTANT:`, or the chat template.

## Data

`{world}`: scenes drawn from SHA-256 of split and number, so splits cannot overlap. No image is stored; the
first 24 test scenes with their questions have the SHA-256 `{fingerprint}`.

## Training

{stages}

Seed {seed}; Muon and AdamW; bfloat16 weights with a float32 master copy. From `names` on the vision tower is frozen; up
to 16 questions of a scene share one pass over its image. For speed, lessons of fewer tokens see a part of the 576,
drawn at random with those of things first; the last {full} steps see all. In lessons that are "shown where to look" one
head of layers 0, 1, 2, 4 and 7 is trained to look where the question's boxes are (`instruments.llava.pointing`).

{lineage}

## Held-out results

{questions} questions about {scenes} test scenes, all 576 tokens, greedy, accuracy in % with 95% intervals.

{accuracy}

With the wrong image: {wrong}. With the image hidden from the last third of the layers: {hidden}.

### Choices of visual tokens at the decoder's input

{choices}

{unseen}

### [CLS] attention against diversity, tier by tier

Accuracy in %; exact paired test (McNemar), corrected for all of these comparisons (Holm).

{duel}

Area under the curve: [CLS] attention, things against the rest {cls_thing}, needed against the rest {cls_needed};
relevance to the question in the joint space, needed against the rest {text_needed}.

## Limits

Its objects are small and its background is plain beside a photograph, so few tokens carry much.
Part of its training saw a part of the visual tokens; `docs/instrument.md` shows what was left of that. A few attention
heads were shown where to look, which may flatter methods that read the decoder's attention.
"""


_TOWER = ("8 x 8 patches around things: what and where each is", "whole images: the same, and [CLS] against texts")


def write_card(folder: Path, lineage: str = "", recipe: Recipe = RECIPE) -> None:
    """Write `folder/README.md` from `curves.json` and `results.json` there. `lineage` says what else happened."""
    results = json.loads((folder / "results.json").read_text())
    card = _CARD.format(
        **measured(folder, lineage, recipe, _TOWER),
        words=len(WORDS),
        full=recipe.full_steps,
        duel=_duel(results["saliency_against_diversity"]),
    )
    write_bytes(folder / "README.md", card.encode())


def measured(folder: Path, lineage: str, recipe: Course, tower: Sequence[str]) -> dict[str, Any]:
    """What any instrument's card is filled with; `tower` says what each stage of the tower learns."""
    curves = json.loads((folder / "curves.json").read_text())
    results = json.loads((folder / "results.json").read_text())
    accuracy = results["accuracy"]
    return {
        "world": WORLD,
        "fingerprint": results["world"],
        "stages": _stages_table(curves, (recipe.windows, recipe.images), recipe.lessons, tower),
        "seed": recipe.seed,
        "lineage": fill(lineage or "The run was unbroken.", 120),
        "questions": results["questions"],
        "scenes": results["scenes"],
        "accuracy": _accuracy_table(accuracy["full"]),
        "wrong": _share(accuracy["wrong image"]["all"]),
        "hidden": _share(accuracy["image hidden from the last third of layers"]["all"]),
        "choices": _choices_table(accuracy),
        "unseen": _unseen_tiers(results["unseen"]),
        **{name: f"{value:.3f}" for name, value in results["auc"].items()},
    }


def _stages_table(
    curves: dict[str, list[dict[str, Any]]], tower: Sequence[Stage], lessons: Sequence[Lesson], whats: Sequence[str]
) -> str:
    """What was trained in turn, and how long it took; `whats` says what the tower learns."""
    rows = ["| stage | steps | scenes a step | rate | seconds | what is learned |", "|---|---|---|---|---|---|"]
    stages = (*tower, *(lesson.stage for lesson in lessons))
    for stage, what in zip(stages, [*whats, *map(_lesson, lessons)], strict=True):
        seconds = max(row.get("seconds", 0) for row in curves[stage.name])
        size = stage.micro * stage.scenes
        rows.append(f"| {stage.name} | {stage.steps} | {size} | {stage.rate:g} | {seconds:.0f} | {what} |")
    return "\n".join(rows)


def _lesson(lesson: Lesson) -> str:
    if not lesson.answer:
        return "projector and words alone: naming what patches show"
    tokens = ""
    if lesson.budgets:
        low, high = min(lesson.budgets), max(lesson.budgets)
        tokens = f"; {low} visual tokens" if low == high else f"; {low} to {high} visual tokens"
    said = f"answers; {' and '.join(lesson.tiers or ('all',))} scenes{tokens}"
    said += f"; more {', '.join(lesson.favoured)}" if lesson.favoured else ""
    return said + ("; shown where to look" if lesson.pointing else "")


def _share(cell: dict[str, Any]) -> str:
    """Percent and its interval."""
    return f"{cell['percent']:.1f} ({cell['interval'][0]:.1f} to {cell['interval'][1]:.1f})"


def _accuracy_table(full: dict[str, Any]) -> str:
    """Accuracy by kind and tier."""
    rows = ["| questions | n | accuracy |", "|---|---|---|"]
    rows += [f"| {name} | {full[name]['n']} | {_share(full[name])} |" for name in ("all", *QUESTION_KINDS, *TIERS)]
    return "\n".join(rows)


def _choices_table(accuracy: dict[str, Any]) -> str:
    """Accuracy of each choice of visual tokens at each budget."""
    budgets = list(dict.fromkeys(name.rsplit(" ", 1)[1] for name in accuracy if name.endswith("%")))
    methods = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in accuracy if name.endswith("%")))
    rows = ["| kept | " + " | ".join(budgets) + " |", "|---" * (len(budgets) + 1) + "|"]
    for method in methods:
        cells = " | ".join(_share(accuracy[f"{method} {budget}"]["all"]) for budget in budgets)
        rows.append(f"| {method} | {cells} |")
    return "\n".join(rows)


def _unseen_tiers(unseen: dict[str, Any]) -> str:
    """A section for each tier that training never saw."""
    sections = []
    for tier, accuracy in unseen.items():
        full = accuracy["full"]["all"]
        asked = f"{full['n']} questions, all tokens {_share(full)}; not among the figures above."
        sections.append(f"### `{tier}` scenes, which training never saw\n\n{asked}\n\n{_choices_table(accuracy)}")
    return "\n\n".join(sections)


def _duel(rows: list[dict[str, Any]]) -> str:
    lines = ["| scenes | kept | n | fastervlm | divprune | p |", "|---|---|---|---|---|---|"]
    for r in rows:
        figures = f"{r['fastervlm']:.1f} | {r['divprune']:.1f} | {r['p_corrected']:.2g}"
        lines.append(f"| {r['tier']} | {r['kept']} | {r['n']} | {figures} |")
    return "\n".join(lines)


def command(name: str, text: str | None, write: Callable[[Path, str], None]) -> None:
    """Read the command line of `python -m name` and write the card."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=text)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder with curves.json and results.json")
    parser.add_argument("--lineage", default="", help="a sentence on restarts and deviations, if there were any")
    args = parser.parse_args()
    write(args.checkpoint, args.lineage)


if __name__ == "__main__":
    command("instruments.llava.card", __doc__, write_card)
