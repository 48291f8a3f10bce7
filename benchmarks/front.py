"""Draws the front page's chart, from committed results alone: accuracy on the embedded world against time.

    python benchmarks/front.py

Both at 22.2 % of the tokens. Accuracy: `results/catalogue.json` (1,000 questions, `python benchmarks/catalogue.py`).
Time: `results/cost.json` (a LLaVA with the decoder of Qwen2-0.5B and random weights, batch 1, one CPU thread, choosing
counted, `python benchmarks/cost.py`). Two models: what a method keeps is judged on the one, what it costs on the other.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from catalogue_ways import ALL
from foveate.tiny.statistics import wilson
from instrument import unpack

HERE = Path(__file__).parent
KEEP = "22.2%"
CHUNK = 100
BASELINES = ("random", "uniform", "pool", "downsample")


def right(cell: dict[str, Any]) -> tuple[int, int]:
    """How many were answered right, of how many."""
    hits = [h for packed in cell["right"] for h in unpack(packed, CHUNK)]
    return sum(hits), len(hits)


def read() -> dict[str, tuple[float, float, float, float]]:
    """Method -> accuracy, its interval, and times as fast to the first token."""
    answers = json.loads((HERE / "results" / "catalogue.json").read_text())["cells"]
    cells = json.loads((HERE / "results" / "cost.json").read_text())["cells"]
    cell = next(c for c in cells if c["batch"] == 1 and c["length"] == 1)
    times = {r["method"]: r.get("speedup", {}).get("first_token", {}).get("median", 1.0) for r in cell["rows"]}
    found = {}
    for name, time in times.items():
        hits, asked = right(answers[f"{ALL}@" if name == "full" else f"{name}@{KEEP}"])
        found[name] = (100 * hits / asked, *(100 * x for x in wilson(hits, asked)), time)
    return found


def draw(out: Path) -> None:
    """One mark a method; whiskers are 95 % intervals."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), dpi=150)
    for name, (accuracy, low, high, time) in read().items():
        colour = "#1b1f24" if name == "full" else "#9aa4b2" if name in BASELINES else "#3f51b5"
        spread = [[accuracy - low], [high - accuracy]]
        axes.errorbar(time, accuracy, yerr=spread, fmt="o", color=colour, ms=6, lw=1, alpha=0.9)
        left = name in ("divprune", "pool", "pyramiddrop", "tops")
        shift = (-8, -3) if left else (8, -9 if name == "random" else -3)
        axes.annotate(name, (time, accuracy), shift, textcoords="offset points", ha="right" if left else "left",
                      fontsize=9, color=colour)  # fmt: skip
    axes.set_xlabel("times as fast to the first token, choosing counted (0.5B shape, batch 1, one CPU thread)")
    axes.set_ylabel("questions right, % (embedded model)")
    title = "keep = 22.2 % of 576 visual tokens (fastv: from layer 2 on); baselines grey"
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlim(0.8, 4.1)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    draw(HERE.parent / "docs" / "front.png")
