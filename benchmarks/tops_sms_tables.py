"""The tables and figures of docs/methods/tops.md and sms.md, from what benchmarks/tops_sms.py measured.

    python benchmarks/tops_sms_tables.py [--results benchmarks/results/tops_sms.json] [--docs docs/methods]

Every table stands between two marks in the page, <!-- table NAME --> and <!-- end -->, and is written anew. Differences
are paired over the same questions: exact McNemar tests, corrected by Holm's method within each table.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from foveate import files
from foveate.errors import FoveateError
from foveate.tiny.statistics import holm, paired, wilson
from instrument import unpack

SHARES = ("22.2%", "11.1%", "5.6%")
RIVALS = ("random", "uniform", "pool", "fastervlm", "divprune", "fastv", "pyramiddrop")
CRITERIA = ("R", "D", "C", "R+D", "R+C", "D+C")


class Measured:
    """One split's outcomes."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.n, self.ways, self.tiers = data["questions"], data["ways"], data["tiers"]

    def has(self, name: str, share: str) -> bool:
        return "hits" in self.ways.get(f"{name} {share}", {})

    def hits(self, name: str, share: str) -> torch.Tensor:
        return torch.tensor(unpack(self.ways[f"{name} {share}"]["hits"], self.n))

    def percent(self, name: str, share: str) -> float:
        return 100 * float(self.hits(name, share).float().mean())

    def budget(self, name: str, share: str) -> float:
        return 100 * self.ways[f"{name} {share}"]["budget"]

    @property
    def full(self) -> torch.Tensor:
        return self.hits("all tokens", "100%")

    def cell(self, name: str, share: str) -> str:
        """Accuracy with its interval."""
        if not self.has(name, share):
            return "cannot" if f"{name} {share}" in self.ways else "-"
        right = int(self.hits(name, share).sum())
        low, high = wilson(right, self.n)
        return f"{100 * right / self.n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    def against(self, mine: tuple[str, str], theirs: Sequence[tuple[str, str]]) -> list[tuple[float, float]]:
        """Points by which `mine` is above each of the others, and the corrected chance of such a split."""
        a = self.hits(*mine)
        pairs = [(a, self.hits(*t)) for t in theirs]
        chances = holm([paired(a, b) for a, b in pairs])
        return [(100 * float(a.float().mean() - b.float().mean()), p) for (a, b), p in zip(pairs, chances, strict=True)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gap(difference: float, p: float) -> str:
    """Points, and the chance where it is small."""
    return f"{difference:+.1f} ({'p < .001' if p < 0.001 else f'p = {p:.3f}'})"


def accuracies(m: Measured, names: Sequence[str], mine: str | None = None) -> str:
    """Accuracies; a star where one differs from `mine` at p < .05, with one correction over the whole table."""
    cells = [(n, s) for n in names for s in SHARES if mine and n != mine and m.has(n, s) and m.has(mine, s)]
    chances = holm([paired(m.hits(str(mine), s), m.hits(n, s)) for n, s in cells])
    apart = {c for c, p in zip(cells, chances, strict=True) if p < 0.05}
    star = lambda n, s: r"\*" if (n, s) in apart else ""  # noqa: E731
    return table(["", *SHARES], [[name, *(m.cell(name, s) + star(name, s) for s in SHARES)] for name in names])


def tops_tables(test: Measured, val: Measured, chosen: dict[str, Any]) -> dict[str, str]:
    variants = [f"{n}, {t}" for n in ("mean", "minmax") for t in ("none", "rank", "log", "clip")]
    inside = ("tops", "tops II", "tops as chosen", "tops as published, renumbered")
    raters = [w["name"] for w in val.ways.values() if w["name"].startswith("I+II")]
    one = f"tops I, {chosen['normalise']}, {chosen['transform']}"
    row = lambda m, name: ", ".join(f"{m.percent(name, s):.1f}" for s in SHARES)  # noqa: E731
    return {
        "chosen": f"Validation scenes would choose {', '.join(f'{k} = `{v}`' for k, v in chosen.items())}.",
        "methods": accuracies(test, ("tops", "tops I", *RIVALS), "tops"),
        "full": below_full(test, "tops"),
        "criteria": accuracies(test, (one, *(f"tops I, {c}" for c in CRITERIA)), one),
        "scales": table(
            ["normalise, transform", "validation", "test"],
            [[v, row(val, f"I, {v}"), row(test, f"tops I, {v}")] for v in variants],
        ),
        "stages": accuracies(test, inside, "tops"),
        "raters": table(["raters, attention", "validation"], [[n, row(val, n)] for n in dict.fromkeys(raters)]),
    }


def below_full(m: Measured, mine: str) -> str:
    """A method against all tokens at each budget, in a sentence."""
    known = [s for s in SHARES if m.has(mine, s)]
    chances = holm([paired(m.hits(mine, s), m.full) for s in known])
    full = m.percent("all tokens", "100%")
    lost = [f"{gap(m.percent(mine, s) - full, p)} at {s}" for s, p in zip(known, chances, strict=True)]
    return f"All tokens: {full:.1f}. `{mine}` against them, in points: {', '.join(lost)}."


def sms_tables(test: Measured, val: Measured, story: dict[str, Any]) -> dict[str, str]:
    shuffled = [n for n in (f"shuffled counts of sms I, {i}" for i in range(99)) if test.has(n, SHARES[0])]
    rows = []
    for s in (s for s in SHARES if test.has("sms I", s)):
        facts = story["stage_1"][s]
        c = test.ways[f"sms I {s}"]["plan"]["cuts"][0]["select"]["c"]
        rivals = [("fixed count of sms I", s), *((n, s) for n in shuffled)]
        (fixed, p_fixed), *others = test.against(("sms I", s), rivals)
        ranks = facts["spearman"]["all"]
        rows.append(
            [s, f"{c:.3g}", f"{facts['mean']['all']:.0f} ({test.budget('sms I', s):.1f}%)", test.cell("sms I", s),
             gap(fixed, p_fixed), f"{fmean(d for d, _ in others):+.1f} (largest p {max(p for _, p in others):.3f})",
             f"{ranks['things']:.2f}, {ranks['object patches']:.2f}"]
        )  # fmt: skip
    inside = [
        n for n in dict.fromkeys(w["name"] for w in test.ways.values()) if n.startswith(("sms,", "sms I, cosine"))
    ]
    best = f"sms, {story['chosen']}"
    lines = []
    for name in inside:
        on_val = f"{val.percent(name, SHARES[0]):.1f}" if val.has(name, SHARES[0]) else "-"
        budget = f"{test.budget(name, SHARES[0]):.1f}%" if test.has(name, SHARES[0]) else "-"
        lines.append([name, on_val, test.cell(name, SHARES[0]), budget])
    others = [n for n in (*RIVALS, "tops") if test.has(n, SHARES[0])]
    above = test.against((best, SHARES[0]), [*((n, SHARES[0]) for n in others), ("all tokens", "100%")])
    return {
        "stage-1": table(
            ["asked", "c", "mean tokens", "right, %", "above a fixed count", "above shuffled counts",
             "rank correlation with things, object patches"],
            rows,
        ),
        "inside": table([f"at {SHARES[0]}", "val", "test", "budget"], lines),
        "above": f"`{best}` against the others, in points: "
        + ", ".join(f"{n} {gap(*g)}" for n, g in zip([*others, "all tokens"], above, strict=True))
        + ".",
    }  # fmt: skip


def speed_table(results: Path) -> str:
    """From benchmarks/tops_speed.py."""
    if not results.is_file():
        return "To be measured."
    data = json.loads(results.read_text())
    rows = [
        [str(c["n"]), str(c["k"]), str(c["batch"]), f"{c['naive_seconds']:.2f} s",
         f"{1e3 * median(c['shipped_seconds']):.1f} ms", f"{c['ratio']:.0f}x", "yes" if c["identical"] else "no"]
        for c in data["cases"]
    ]  # fmt: skip
    return table(["N", "K", "pictures", "the loop", "shipped", "ratio", "same indices"], rows)


def fill(page: Path, tables: dict[str, str]) -> None:
    """Write each table between its marks.

    Raises:
        FoveateError: the page lacks a mark.
    """
    text = page.read_text()
    for name, made in tables.items():
        mark = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(text):
            raise FoveateError(f"{page} has no place for the table {name!r}")
        text = mark.sub(lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text)
    files.write(page, text.encode())


def figures(docs: Path, test: Measured, story: dict[str, Any]) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6))
    for name in ("tops", "tops I", *RIVALS):
        points = [(test.budget(name, s), test.percent(name, s)) for s in SHARES if test.has(name, s)]
        axes.plot(
            *zip(*points, strict=True), marker="o", markersize=3, linewidth=2 if name == "tops" else 1, label=name
        )
    axes.axhline(test.percent("all tokens", "100%"), color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="mean visual tokens per layer, %", ylabel="right answers, %")
    axes.legend(fontsize=7, ncols=2)
    figure.savefig(docs / "tops-accuracy.png", dpi=110, bbox_inches="tight")
    facts = story["stage_1"].get(SHARES[0])
    if facts:
        figure, axes = plt.subplots(figsize=(6, 3.2))
        for tier in dict.fromkeys(facts["tiers"]):
            at = [i for i, t in enumerate(facts["tiers"]) if t == tier]
            axes.scatter([facts["patches"][i] for i in at], [facts["counts"][i] for i in at], s=8, label=tier)
        axes.set(xlabel="patches that show a thing", ylabel="tokens kept by SMS stage 1")
        axes.legend(fontsize=7)
        figure.savefig(docs / "sms-counts.png", dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/tops_sms.json"))
    parser.add_argument("--docs", type=Path, default=Path("docs/methods"))
    args = parser.parse_args()
    data = json.loads(args.results.read_text())
    val = Measured(data["splits"]["val"])
    test = Measured(next(s for name, s in data["splits"].items() if name != "val" or len(data["splits"]) == 1))
    about = f"{test.n} held-out questions, choices made on {val.n} validation questions; `{data['command']}`."
    speed = {"speed": speed_table(args.results.with_name("tops_speed.json"))}
    fill(args.docs / "tops.md", speed | {"about": about} | tops_tables(test, val, data["chosen"]))
    fill(args.docs / "sms.md", {"about": about} | sms_tables(test, val, data["sms"]))
    figures(args.docs, test, data["sms"])


if __name__ == "__main__":
    main()
