"""A run's curves as one picture: loss, answers soft and hard, and how many tokens are kept."""

import importlib.util
from pathlib import Path
from typing import Any


def plot(curve: list[dict[str, Any]], budget: float, file: Path) -> bool:
    """Three panels over updates. Does nothing and returns False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    panels = {
        "loss": ("loss",),
        "right answer tokens (soft), answers (hard)": ("right", "hard_accuracy"),
        "share kept": ("kept", "hard_kept"),
    }
    figure = Figure(figsize=(12, 3.4))
    panels = {title: names for title, names in panels.items() if any(n in row for n in names for row in curve)}
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in curve if name in row]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, label=name, marker="o" if name.startswith("hard") else None)
        if title == "share kept":
            axes.axhline(budget, color="grey", linestyle=":", label="budget")
        axes.set(title=title, xlabel="update", ylim=(0, None))
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    return True
