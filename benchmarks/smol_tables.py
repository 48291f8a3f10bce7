"""Write the measured tables into docs/instrument-smol*.md, between their markers, from benchmarks/results/smol*.json.

    python benchmarks/smol_tables.py

Sections whose file is missing keep their text.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.bench.statistics import compare, interval
from instruments.smol.world import KINDS

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
SHARES = ("22.2%", "12.5%", "11.1%", "5.6%")
PAGES = ("instrument-smol.md", "instrument-smol-tables.md")
MAIN = (
    "ground truth", "random, seed 0", "uniform", "fastervlm", "divprune", "scope", "tops I", "tops", "tops at 24, 27",
    "sms I", "sms", "fastv", "psigmoid", "flat behind layer 0",
)  # fmt: skip
"""Ways on the first page; all are on the second."""


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown, first column left."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(r) + " |" for r in rows)])


def methods(data: dict[str, Any], names: Sequence[str] = ()) -> str:
    """Accuracy of every way, or some, at every budget, with its interval; of all of them what was spent too."""
    ways, every = data["ways"], not names
    known = dict.fromkeys(w["name"] for w in ways.values() if w["share"] in SHARES)
    names = [n for n in names or known if n in known]
    shares = [s for s in SHARES if any(w["share"] == s for w in ways.values())]
    rows = []
    for name in names:
        cells = []
        for share in shares:
            w = ways.get(f"{name} {share}")
            if w is None:
                cells.append("")
            elif "cannot" in w:
                cells.append("cannot")
            else:
                spent = f", {w['budget']:.1%}" if every else ""
                cells.append(f"{w['percent']:.1f} ({w['low']:.0f} to {w['high']:.0f}){spent}")
        asked = {w["questions"] for s in shares if "questions" in (w := ways.get(f"{name} {s}", {}))}
        rows.append([name, *cells, " or ".join(map(str, sorted(asked)))])
    return table(["method", *shares, "questions"], rows)


def kinds(data: dict[str, Any], asked: Sequence[str] = KINDS) -> str:
    """The full model and its controls by kind."""
    rows = []
    for key in ("full 100%", "another picture 100%", "ground truth 11.1%", "random, seed 0 11.1%", "divprune 11.1%"):
        if "kinds" in (w := data["ways"].get(key, {})):
            of, last = w["kinds"], ["{:.1f} ({:.1f} to {:.1f})".format(*w["kept"])] if asked is KINDS else []
            rows.append([key, f"{w['percent']:.1f}", *(f"{of[k]:.0f}" if k in of else "" for k in asked), *last])
    return table(["", "all", *asked, *(["without relation and kind"] if asked is KINDS else [])], rows)


def easy(data: dict[str, Any]) -> str:
    """The third party's questions: by kind, then those that are not of yes and no."""
    names = ("tops I", "divprune", "fastervlm", "random, seed 0", "ground truth")
    return "\n\n".join([kinds(data, ("shape", "colour", "exist")), methods(data["open"], names)])


def difference(p: dict[str, Any]) -> str:
    """Points with their interval and McNemar's p."""
    return f"{100 * p['difference']:+.1f} ({100 * p['low']:+.1f} to {100 * p['high']:+.1f}), {p['p']:.2g}"


def pairs(data: dict[str, Any]) -> str:
    """Paired differences in points, a row a pair of methods."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, p in data.get("pairs", {}).items():
        first, second = name.split(" - ")
        method, share = first.rsplit(" ", 1)
        found.setdefault(f"{method} - {second.rsplit(' ', 1)[0]}", {})[share] = p
    rows = []
    shares = [s for s in SHARES if any(s in of for of in found.values())]
    for name, of in found.items():
        asked = sorted({p["questions"] for p in of.values()})
        rows.append([name, *(difference(of[s]) if s in of else "" for s in shares), " or ".join(map(str, asked))])
    return table(["first - second", *shares, "questions"], rows)


def searched(data: dict[str, Any]) -> str:
    """What searches found, promised and came to, on other sets' questions and on the test's."""
    alike = json.loads((RESULTS / "smol_promises.json").read_text())
    rows = []
    for name, row in data.items():
        of, promised = row["counts"], row["held out"]["upper"]
        steps = [f"{c} from {i}" for i, c in enumerate(of) if not i or c != of[i - 1]]
        # A schedule with a step a layer is no use in a cell: its ends say what it is.
        said = ", ".join(steps) if len(steps) < 7 else f"{steps[0]}, ..., {steps[-1]}"
        rows.append([
            name, str(row["searched on"]), said, f"{row['search loss']:.3f}", f"{promised:.3f}",
            *(came(found, promised) for found in (alike.get(name), row["test"])),
            difference(row["test"]["points"]), f"{row['test']['flops']:.0%}",
        ])  # fmt: skip
    head = ["plan", "searched on", "tokens from layer", "loss there", "promised", "other sets", "test"]
    return table([*head, "points", "operations"], rows)


def came(found: dict[str, Any] | None, promised: float) -> str:
    """A loss, in bold if it is above what was promised."""
    if found is None:
        return ""
    text = f"{found['loss']:.3f} ± {found['error']:.3f}"
    return f"**{text}**" if found["loss"] > promised else text


def named(of: dict[str, Any]) -> list[str]:
    """What a linear classifier names of pictures of training, and of unseen ones."""
    cells = []
    for split in ("validation", "unseen"):
        low, high = interval([float(c) for c in of[split]["hits"]])
        cells.append(f"{of[split]['percent']:.1f} ({100 * low:.0f} to {100 * high:.0f})")
    return cells


def unseen_gain(of: dict[str, Any], base: dict[str, Any]) -> str:
    """What one classifier names more of unseen pictures than another."""
    return difference(compare(*([float(c) for c in x["unseen"]["hits"]] for x in (of, base))).to_dict())


def probe(data: dict[str, Any]) -> str:
    """A linear classifier's names at every picture size."""
    first, rows = next(iter(data.values())), []
    for size, of in data.items():
        gain = "" if of is first else unseen_gain(of, first)
        rows.append([size, str((int(size) // 14) ** 2), *named(of), gain])
    against = f"unseen against {next(iter(data))}"
    return table(["pixels", "tokens", "pictures of training", "unseen pictures", against], rows)


def tuned(data: dict[str, Any]) -> str:
    """A linear classifier's names on the tower as it is, and after LoRA."""
    rows = []
    for name in ("frozen", "LoRA"):
        rows.append([f"{name}, {data['things']} things", *named(data[name])])
    rows.append(["LoRA - frozen", "", unseen_gain(data["LoRA"], data["frozen"])])
    return table(["tower's last four blocks", "pictures of training", "unseen pictures"], rows)


def layers(data: dict[str, Any]) -> str:
    """Everything about layers that has been measured."""
    parts = []
    if "tau" in data:
        rows = []
        for rater in ("last", "words"):
            for control, of in data["tau"][rater].items():
                rows.append([f"{rater}: {control}", *(f"{of[k]:.2f}" for k in of)])
        for rater, of in data["tau"].get("no LoRA", {}).items():
            rows.append([f"{rater}: no LoRA", *(f"{of[k]:.2f}" for k in of)])
        parts.append(table(["Kendall's tau", *data["tau"]["last"]["same picture"]], rows))
    if "mass" in data:
        every = range(0, len(data["mass"]), 3)
        rows = [
            [name, *(f"{data[key][i]:.2f}" for i in every)]
            for name, key in (
                ("last token's attention on the image", "mass"), ("its AUC", "auc"), ("the words' AUC", "auc words")
            )
        ]  # fmt: skip
        parts.append(table(["layer", *map(str, every)], rows))
        cls = data["cls"]
        text = f"[CLS]: AUC {cls['auc']} for tokens of things, {cls['top tenth']:.0%} of its attention on the top tenth"
        parts.append(f"{text}, the largest {cls['peak']} times the mean.")
    if "essential" in data:
        found = data["essential"]["layers"]
        rows = [
            ["fewest tokens", *(str(of["fewest"]) for of in found.values())],
            ["accuracy with the image hidden", *(str(of["percent"]["0"]) for of in found.values())],
        ]
        parts.append(table([f"from layer (all seen: {data['essential']['full']})", *found], rows))
    if "positions" in data:
        rows = [[share, *map(str, of)] for share, of in data["positions"].items()]
        parts.append(table(["DivPrune's tokens", "stay where they were", "renumbered"], rows))
    return "\n\n".join(parts)


SECTIONS = {
    "kinds": ("smol.json", kinds),
    "main": ("smol.json", lambda data: methods(data, MAIN)),
    "methods": ("smol.json", methods),
    "pairs": ("smol.json", pairs),
    "576 kinds": ("smol_576.json", kinds),
    "576": ("smol_576.json", lambda data: methods(data, MAIN)),
    "576 pairs": ("smol_576.json", pairs),
    "searched": ("smol_search.json", searched),
    "easy": ("smol_easy.json", easy),
    "easy pairs": ("smol_easy.json", lambda data: pairs(data["open"])),
    "probe": ("smol_probe.json", probe),
    "tuned": ("smol_tuned.json", tuned),
    "layers": ("smol_layers.json", layers),
}


def main() -> None:
    for page in (ROOT / "docs" / name for name in PAGES):
        text = page.read_text(encoding="utf8")
        for name, (file, make) in SECTIONS.items():
            if (source := RESULTS / file).exists():
                made = f"<!-- {name} -->\n{make(json.loads(source.read_text()))}\n<!-- end {name} -->"
                pattern = rf"<!-- {name} -->.*?<!-- end {name} -->"
                text = re.sub(pattern, lambda _, made=made: made, text, flags=re.DOTALL)
        page.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()
