"""What `catalogue.py` measured: every cell with intervals and paired tests, and the front of accuracy against time.

    python benchmarks/catalogue_tables.py [--docs docs/methods]

writes `measured.md` and its picture. Paired tests are over the questions that both cells were asked; p is McNemar's,
after Holm's correction over the cells of one keep.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from catalogue_ways import ALL, SMALLER
from foveate import files
from foveate.bench.statistics import Paired, compare, holm, interval, mcnemar
from instrument import unpack

CHUNK = 100
COSTS = Path(__file__).parent / "results" / "choosing_cost.json"
ORDER = ("22.2%", "11.1%", "5.6%")
RIVALS = ("divprune", "uniform")
SHOWN = {"random", "uniform", "fastv", "pyramiddrop", "sparsevlm", "dart", "priortr", "clse", "feather", "psigmoid",
         "tops", "fastervlm", SMALLER, "pool", "vtw", "sms"}  # fmt: skip
"""Those below that the overview names."""
COLOURS = {"": "black", "22.2%": "#1f77b4", "11.1%": "#ff7f0e", "5.6%": "#2ca02c"}


@dataclass
class Row:
    """One cell."""

    name: str
    keep: str
    scores: list[float]
    budget: float
    prefill: float
    choosing: float
    lost: Paired
    """Of all tokens minus this."""
    against: dict[str, tuple[float, float]]
    """This minus each of the rivals at the same keep, and McNemar's p."""

    @property
    def right(self) -> float:
        return fmean(self.scores)

    @property
    def time(self) -> float:
        return self.prefill + self.choosing


def rows(data: dict[str, Any]) -> list[Row]:
    """Every cell that was asked and timed."""
    known = {c: v for c, v in data["cells"].items() if v.get("right")}
    # Of a run that was stopped in the middle of a chunk, as many as most cells have.
    common = Counter(len(v["right"]) for v in known.values()).most_common(1)[0][0]
    scores = {c: [float(h) for x in v["right"][:common] for h in unpack(x, CHUNK)] for c, v in known.items()}

    def against(cell: str, rival: str) -> tuple[float, float]:
        pairs = list(zip(scores[cell], scores[rival], strict=False))  # of those that both were asked
        better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        return (better - worse) / len(pairs), mcnemar(better, worse)

    found = []
    for cell, v in known.items():
        name, _, keep = cell.rpartition("@")
        time = data["time"].get(cell, {"prefill": 1.0, "choosing": 0.0} if name == ALL else None)
        if time is None:
            continue
        rivals = {r: against(cell, f"{r}@{keep}") for r in RIVALS if keep and r != name}
        lost = compare(scores[f"{ALL}@"][: len(scores[cell])], scores[cell])
        row = Row(
            name, keep, scores[cell], fmean(v["budget"][:common]), time["prefill"], time["choosing"], lost, rivals
        )
        found.append(row)
    return found


def front(found: list[Row]) -> set[int]:
    """Those that nothing as fast answers more questions than: places in the list."""
    best, out = -1.0, set()
    for i in sorted(range(len(found)), key=lambda i: (found[i].time, -found[i].right)):
        if found[i].right > best:
            best = found[i].right
            out.add(i)
    return out


def corrected(found: list[Row]) -> dict[tuple[str, str, str], float]:
    """(name, keep, rival) -> p after Holm over the cells of that keep."""
    out = {}
    for keep in ORDER:
        for rival in RIVALS:
            here = [r for r in found if r.keep == keep and rival in r.against]
            for row, p in zip(here, holm([r.against[rival][1] for r in here]), strict=True):
                out[row.name, keep, rival] = p
    return out


def points(pair: Paired) -> str:
    return f"{100 * pair.difference:.1f} ({100 * pair.low:.1f}..{100 * pair.high:.1f})"


def page(data: dict[str, Any], found: list[Row]) -> str:
    """The tables as Markdown."""
    fast, p = front(found), corrected(found)
    full = next(r for r in found if r.name == ALL)
    low, high = interval(full.scores)
    n = {len(r.scores) for r in found}
    some = f" ({min(n):,} for some)" if len(n) > 1 else ""
    lines = [
        "# What the methods are worth", "",
        "`python benchmarks/catalogue.py && python benchmarks/catalogue_tables.py`, from",
        "`benchmarks/results/catalogue.json`. The embedded model ([instrument.md](../instrument.md)),",
        f"{max(n):,} test questions{some}, four a scene, the decoder in bfloat16:",
        f"**{100 * full.right:.1f} % right with all 576 tokens ({100 * low:.1f}..{100 * high:.1f})**.",
        "In brackets 95 % intervals; differences are paired and in points, p after Holm's correction over one keep",
        "(`<` is .001). *lost*: all tokens minus this. *budget*: mean share of the tokens that a layer sees, %.",
        "*prefill*, *choosing*: CPU time over the prefill of all tokens, on cores that had other work (a decoder 256",
        "wide: beside a 7B model choosing costs next to nothing). *front*: nothing as fast answers more; prefills of",
        "one budget differ by a hundredth, which is noise. One toy world, one checkpoint: leads, not laws.", "",
        "![Accuracy against time](catalogue-front.png)",
    ]  # fmt: skip
    for keep in ORDER:
        lines += [
            "", f"## keep = {keep}", "",
            "|method|right, %|lost|against `divprune`, p|against `uniform`, p|budget|prefill|choosing|front|",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for i in sorted((i for i, r in enumerate(found) if r.keep == keep), key=lambda i: -found[i].right):
            r = found[i]
            low, high = interval(r.scores)
            rivals = [
                f"{100 * r.against['divprune'][0]:+.1f}, {short(p[r.name, keep, 'divprune'])}"
                if "divprune" in r.against else "",
                f"{100 * r.against['uniform'][0]:+.1f}, {short(p[r.name, keep, 'uniform'])}"
                if "uniform" in r.against else "",
            ]  # fmt: skip
            lines.append(
                f"|{named(r.name)}|{100 * r.right:.1f} ({100 * low:.1f}..{100 * high:.1f})|{points(r.lost)}|"
                f"{'|'.join(rivals)}|{100 * r.budget:.1f}|{r.prefill:.2f}|{r.choosing:.3f}|"
                f"{'yes' if i in fast else ''}|"
            )
    lines += costs(json.loads(COSTS.read_text()))
    refused = {c: v["refused"] for c, v in data["cells"].items() if "refused" in v}
    if refused:
        lines += ["", "Not possible:", "", *(f"- {named(c)}: {why}" for c, why in refused.items())]
    return "\n".join(lines) + "\n"


def costs(data: dict[str, Any]) -> list[str]:
    """What choosing costs beside each paper's loop."""
    lines = [
        "", "## Choosing, beside each paper's loop", "",
        "`python benchmarks/choosing_cost.py`: 2,880 tokens, 320 kept, 1,024 wide, one thread; CPU time, and peak",
        "memory in MiB above the start (of a process of its own: what numba loads is in it). *at 32,768*: tokens 64",
        "wide, 64 kept; a matrix of all pairs would be 4,096.", "",
        "|method|seconds|times faster|MiB|loop's MiB|at 32,768|", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    whole = lambda v, name: f"{v[name]:.0f}" if name in v else ""  # noqa: E731
    for name, v in sorted(data.items(), key=lambda item: -item[1]["times"]):
        sizes = "|".join(whole(v, field) for field in ("mib", "plain_mib", "long_mib"))
        lines.append(f"|`{name}`|{v['seconds']:.3f}|{v['times']:.1f}|{sizes}|")
    return lines


def named(name: str) -> str:
    """The method as code, what it was set to behind it."""
    method, comma, rest = name.partition(",")
    return f"`{method}`{comma}{rest}" if method != SMALLER else "a smaller picture"


def short(p: float) -> str:
    return "<" if p < 0.001 else f"{p:.3f}".lstrip("0") if p < 1 else "1"


def draw(found: list[Row]) -> Any:
    """Accuracy against time, logarithmic, and the upper left corner again; the front is a line."""
    fast = sorted(front(found), key=lambda i: found[i].time)
    figure, panels = plt.subplots(1, 2, figsize=(14, 6.5), layout="constrained", width_ratios=(2, 3))
    ticks = [0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0]
    corner = (0.115, 0.5), (86.0, 97.0)
    for axes in panels:
        for keep, colour in COLOURS.items():
            here = [r for r in found if r.keep == keep]
            axes.scatter([r.time for r in here], [100 * r.right for r in here], s=14, color=colour, label=keep or ALL)
        axes.plot([found[i].time for i in fast], [100 * found[i].right for i in fast], color="black", lw=0.8, zorder=0)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.set(xlabel="prefill and choosing, CPU time over the prefill of all tokens", ylabel="right, %")
        axes.grid(alpha=0.25)
    names(panels[0], [r for r in found if r.name in SHOWN and 100 * r.right < corner[1][0]])
    names(panels[1], [r for r in found if inside(r, corner)])
    panels[1].set(xlim=corner[0], ylim=corner[1])
    panels[0].legend(title="keep", loc="lower right")
    return figure


def names(axes: Any, found: list[Row]) -> None:
    """A name beside each point, in turns on one side and the other of it."""
    for place, r in enumerate(sorted(found, key=lambda r: (r.right, r.time))):
        left = place % 2 == 0
        axes.annotate(
            r.name, (r.time, 100 * r.right), fontsize=6, color=COLOURS[r.keep], textcoords="offset points",
            xytext=(-4 if left else 4, -2), ha="right" if left else "left",
        )  # fmt: skip


def inside(row: Row, corner: tuple[tuple[float, float], tuple[float, float]]) -> bool:
    (left, right), (low, high) = corner
    return left <= row.time <= right and low <= 100 * row.right <= high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "catalogue.json")
    parser.add_argument("--docs", type=Path, default=Path("docs/methods"))
    args = parser.parse_args()
    data = json.loads(args.results.read_text())
    found = rows(data)
    files.write(args.docs / "measured.md", page(data, found).encode())
    draw(found).savefig(args.docs / "catalogue-front.png", dpi=110)
    print(args.docs / "measured.md")


if __name__ == "__main__":
    main()
