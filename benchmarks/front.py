"""Draws the front page's chart, from committed results alone: accuracy on the embedded world against time.

    python benchmarks/front.py

Both at 22.2 % of the tokens. Accuracy: `results/world.json` (200 questions of all tiers, `python benchmarks/world.py`).
Time: `results/cost.json` (a LLaVA with the decoder of Qwen2-0.5B and random weights, batch 1, one CPU thread, choosing
counted, `python benchmarks/cost.py`). Two models: what a method keeps is judged on the one, what it costs on the other.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
KEEP = "0.222"
BASELINES = ("random", "uniform", "pool", "downsample")


def read() -> dict[str, tuple[float, float, float, float]]:
    """Method -> accuracy, its interval, and times as fast to the first token."""
    rows = json.loads((HERE / "results" / "world.json").read_text())["quality"]["rows"]
    cells = json.loads((HERE / "results" / "cost.json").read_text())["cells"]
    cell = next(c for c in cells if c["batch"] == 1 and c["length"] == 1)
    times = {r["method"]: r.get("speedup", {}).get("first_token", {}).get("median", 1.0) for r in cell["rows"]}
    return {
        r["method"]: (100 * r["accuracy"], *(100 * x for x in r["interval_95"]), times[r["method"]])
        for r in rows
        if r["task"] == "tiny" and r["keep"] in (KEEP, "1.0", "1") and r["method"] in times
    }


def draw(out: Path) -> None:
    """One mark a method; whiskers are 95 % intervals."""
    figure, axes = plt.subplots(figsize=(7.2, 4.2), dpi=150)
    for name, (accuracy, low, high, time) in read().items():
        colour = "#1b1f24" if name == "full" else "#9aa4b2" if name in BASELINES else "#3f51b5"
        spread = [[accuracy - low], [high - accuracy]]
        axes.errorbar(time, accuracy, yerr=spread, fmt="o", color=colour, ms=6, lw=1, alpha=0.9)
        left = name in ("divprune", "pool", "pyramiddrop")
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
