"""`foveate demo`: held-out questions to the embedded model, a few methods, fewer and fewer visual tokens."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli import app, choose, show
from foveate.cli.options import Json
from foveate.cli.progress import progress
from foveate.errors import FoveateError, install

_KEEPS = ("0.222", "0.111")
_METHODS = (
    "random", "uniform", "pool", "downsample", "fastervlm", "divprune", "fastv",
    "tops", "sms", "psigmoid", "sts",
)  # fmt: skip
_DRAWN = ("random", "fastervlm", "divprune", "tops", "sms", "psigmoid", "sts")
# So that all have one mean budget. Found on scenes that these questions are not from: c by `foveate.search.calibrate`,
# the schedule by `benchmarks/gsearch.py` at 12.5 % (its upper level goes with the budget), the selectors by training.
_SCHEDULE = {"first": "spread", "raters": "last", "attention": "own", "slope": 1.783}
_SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("sms", "0.222"): {"keep": 0.99, "stages": 1, "c": 36.05},
    ("sms", "0.111"): {"keep": 0.99, "stages": 1, "c": 0.628},
    ("psigmoid", "0.222"): {"top": 0.355, **_SCHEDULE},
    ("psigmoid", "0.111"): {"top": 0.2, **_SCHEDULE},
    ("sts", "0.222"): {"keep": 0.555, "budget": 0.222},
    ("sts", "0.111"): {"keep": 0.278, "budget": 0.111},
}
_FEWEST, _MOST = 8, 2000
_EXAMPLES = """
[bold]Examples[/bold]

  foveate demo
  foveate demo --questions 200 --out out/demo

The default takes some 75 seconds of one CPU core, and needs no network.
"""


@app.command(epilog=_EXAMPLES)
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the pictures and the numbers go.")] = Path("out/demo"),
    questions: Annotated[int, typer.Option(metavar="N", help="How many held-out questions to ask, 8 to 2,000.")] = 24,
    as_json: Json = False,
) -> None:
    """Ask the model that comes with the package about pictures it never saw, with fewer and fewer visual tokens."""
    from foveate import files, tiny
    from foveate.cli import trial

    if not _FEWEST <= questions <= _MOST:
        raise FoveateError(f"--questions is {questions}; give {_FEWEST} to {_MOST}")
    out = files.folder(out)
    begin = time.perf_counter()
    show.loading("tiny", as_json)
    model, processor = tiny.load()
    ways = _ways(model.config.get_text_config().num_hidden_layers)
    asked = trial.questions(questions)
    what = f"{len(asked)} questions, {len(ways)} ways of answering"
    try:
        with progress(as_json) as bar:
            for done in trial.run(model, processor, asked, ways):
                bar(what, done, len(asked) * len(ways))
    except KeyboardInterrupt:
        # What every way was asked still compares.
        asked = trial.common(asked, ways)
        if not asked:
            raise
    figures = [w.figures(asked, ways[0]) for w in ways]
    sheet, plot = _draw(out, asked, ways, figures)
    data = {
        "model": "tiny",
        "split": "test",
        "questions": [{"text": q.text, "answer": q.answer, "kind": q.kind, "tier": q.tier} for q in asked],
        "settings": {f"{name}@{keep}": options for (name, keep), options in _SETTINGS.items() if name in _METHODS},
        "results": figures,
        "seconds": time.perf_counter() - begin,
        "sheet": str(sheet),
        "plot": str(plot) if plot else None,
    }
    numbers = files.write(out / "demo.json", (json.dumps(data, indent=2) + "\n").encode())
    if as_json:
        show.as_json(data)
        return
    _print(figures, len(asked))
    drawn = f"Plot:    {plot}" if plot else f"No plot: {install('plot')}"
    show.console().print(f"\nSheet:   {sheet}\n{drawn}\nNumbers: {numbers}\n[dim]{data['seconds']:.0f} s[/dim]")


def _ways(depth: int) -> list[Any]:
    from foveate.cli.trial import Way

    ways = [Way("all tokens")]
    for keep in _KEEPS:
        for name in _METHODS:
            if name == "downsample":
                ways.append(Way(name, float(keep), scaled=True))
                continue
            options = dict(_SETTINGS.get((name, keep), {}))
            ways.append(Way(name, float(keep), choose.build(name, str(options.pop("keep", keep)), options, depth)))
    return ways


def _print(figures: Sequence[dict[str, Any]], n: int) -> None:
    page = show.console()
    page.print(f"\n[bold]{n} held-out questions to the embedded model[/bold]")
    table = show.table("method", "keep", "tokens", "budget", "accuracy", "95%", "agree", "time")
    for f in figures:
        if f["keep"] != 1.0 and f["method"] == _METHODS[0]:
            table.add_section()
        low, high = (f"{100 * x:.0f}" for x in f["interval_95"])
        table.add_row(
            f["method"],
            f"{f['keep']:g}",
            f"{f['tokens']:.0f}",
            f"{f['budget']:.0f}",
            f"{100 * f['accuracy']:.1f}",
            f"{low}-{high}",
            f"{100 * f['agreement']:.0f}",
            show.times(f["time_ratio"]),
        )
    page.print(table)
    page.print(
        "[dim]Tokens: left in the last layer. Budget: mean per layer. Agree: % of answers as with all tokens.\n"
        "Time: all tokens over the method, whole answers, choosing included; of this small model on this machine.\n"
        "Intervals this wide separate little: foveate demo --questions 1000 narrows them.[/dim]"
    )


def _draw(out: Path, asked: Sequence[Any], ways: Sequence[Any], figures: Sequence[dict[str, Any]]) -> tuple[Path, Any]:
    """The overlay sheet, and the plot where matplotlib is installed."""
    from foveate import viz
    from foveate.selection import Block
    from foveate.tiny.vocabulary import GRID, TIERS

    green, red = (22, 128, 60), (196, 40, 40)
    grid = (Block(0, GRID, GRID),)
    keep = float(_KEEPS[-1])
    rows = []
    for tier in TIERS:
        found = [i for i, q in enumerate(asked) if q.tier == tier]
        if not found:
            continue
        # One that all tokens answer right and most ways of answering disagree on shows most.
        i = max(found, key=lambda i: (ways[0].answers[i] == asked[i].answer, len({w.answers[i] for w in ways})))
        q = asked[i]
        colour = green if ways[0].answers[i] == q.answer else red
        row = [viz.Panel(viz.fit(q.image, 224), q.text, f"all tokens: {ways[0].answers[i]}", colour)]
        for w in ways:
            if w.name not in _DRAWN or w.keep != keep:
                continue
            text = w.answers[i] or "(nothing)"
            picture = viz.dim(q.image, viz.place(q.image, grid), w.kept[i], 224)
            row.append(viz.Panel(picture, f"{w.name}, {len(w.kept[i])} left", text, green if text == q.answer else red))
        rows.append(row)
    sheet = viz.save(viz.sheet(rows, f"What is left at keep {keep}, and what the model answers"), out / "demo.png")
    return sheet, _plot(figures, out / "accuracy.png")


def _plot(figures: Sequence[dict[str, Any]], path: Path) -> Path | None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    from io import BytesIO

    from foveate import files

    page = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = page.subplots()
    full = figures[0]
    axes.axhline(100 * full["accuracy"], color="0.3", lw=1, ls="--", label=f"all {full['tokens']:.0f} tokens")
    for j, name in enumerate(_METHODS):
        points = sorted((f for f in figures if f["method"] == name), key=lambda f: f["budget"])
        # Side by side where budgets are equal, so that bars do not hide each other.
        x = [f["budget"] * (1 + 0.012 * (j - len(_METHODS) / 2)) for f in points]
        y = [100 * f["accuracy"] for f in points]
        low = [100 * (f["accuracy"] - f["interval_95"][0]) for f in points]
        high = [100 * (f["interval_95"][1] - f["accuracy"]) for f in points]
        axes.errorbar(x, y, yerr=[low, high], marker="o", ms=5, lw=1.2, elinewidth=0.8, capsize=2, label=name)
    axes.set(xscale="log", xlabel="budget: mean visual tokens per LLM layer", ylabel="accuracy, % (bars: 95%)")
    axes.set_xticks(ticks := [32, 64, 128, 256], labels=[str(t) for t in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.set_ylim(0, 103)
    page.legend(fontsize=8, loc="outside right upper", frameon=False)
    buffer = BytesIO()
    page.savefig(buffer, format="png", dpi=140)
    return files.write(path, buffer.getvalue())
