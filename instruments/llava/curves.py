"""Training curves as one picture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from instruments.llava.stage import Curve

_SHOWN = {
    "windows": ("kind_right", "color_right", "letter_right"),
    "images": ("kind_right", "letter_right", "bank", "pairs"),
    "names": ("naming",),
}
_ANSWERS = ("loss", "val_all", "val_relation", "val_plate", "val_count", "val_position")
_COLUMNS = 4


def plot(curves: dict[str, Curve], file: Path) -> bool:
    """One panel a stage. Does nothing and returns False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(curves) // _COLUMNS)
    figure, panels = pyplot.subplots(rows, _COLUMNS, figsize=(4 * _COLUMNS, 3.2 * rows), squeeze=False)
    for panel in panels.flat[len(curves) :]:
        panel.set_visible(False)
    for panel, (stage, curve) in zip(panels.flat, curves.items(), strict=False):
        for name in _SHOWN.get(stage, _ANSWERS):
            points = [(row["step"], row[name]) for row in curve if name in row]
            if points:
                panel.plot(*zip(*points, strict=True), label=name, marker="." if name.startswith("val") else None)
        panel.set(title=stage, xlabel="step", ylim=(0, None))
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return True
