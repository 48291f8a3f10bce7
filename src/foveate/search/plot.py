"""Two pictures of a search: what each layer sees under the plan, and everything that was tried, loss against cost."""

from io import BytesIO
from pathlib import Path
from typing import Any

from foveate import files
from foveate.plan import Plan


def schedule_of(plan: Plan, depth: int) -> list[float]:
    """The keep of each layer; numbers of tokens stay numbers."""
    kept: float = 1.0
    out = []
    cuts = list(plan.at_depth(depth).cuts)
    for layer in range(depth):
        while cuts and (not isinstance(cuts[0].at, int) or cuts[0].at <= layer):
            kept = cuts.pop(0).keep
        out.append(kept)
    return out


def draw(plan: Plan, depth: int, tried: list[tuple[float, float]], metric: str, path: Path) -> Path | None:
    """Write the PNG; None where matplotlib is not installed.

    Args:
        plan: with its evidence in `made`.
        depth: decoder layers.
        tried: (cost, loss) of each plan.
        metric: for the axis.
        path: where.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    page = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = page.subplots(1, 2)
    keeps = schedule_of(plan, depth)
    shares = [k if isinstance(k, float) else float("nan") for k in keeps]
    whole = not any(isinstance(k, float) and k < 1 for k in keeps)
    left.bar(range(depth), keeps if whole else [100 * s for s in shares], color="0.35", width=0.8)
    left.set(xlabel="decoder layer", ylabel="visual tokens" if whole else "visual tokens kept, %")
    left.set_title("schedule", fontsize=10)
    made: dict[str, Any] = dict(plan.made or {})
    scale, unit = (1.0, "nats a token") if metric == "likelihood" else (100.0, "points")
    right.scatter([100 * c for c, _ in tried], [scale * x for _, x in tried], s=14, color="0.6", label="tried")
    if "visual_flops" in made:
        x = [100 * made["visual_flops"]]
        right.scatter(x, [scale * made["search"]["loss"]], color="C0", zorder=3, label="plan, searched on")
        held = made["held_out"]
        low, high = scale * held["loss"], scale * held["upper"]
        right.errorbar(x, [low], yerr=[[0], [max(0.0, high - low)]], fmt="o", color="C3", capsize=3, zorder=3,
                       label="plan, held out, with bound")  # fmt: skip
    right.axhline(0, color="0.3", lw=0.8, ls="--")
    right.set(xlabel="visual tokens' operations, % of all", ylabel=f"loss of {metric}, {unit}")
    right.set_title("loss against cost", fontsize=10)
    right.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    buffer = BytesIO()
    page.savefig(buffer, format="png", dpi=140)
    return files.write(path, buffer.getvalue())
