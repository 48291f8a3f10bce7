"""Benchmarks in the terminal: quality, cost and comparisons as tables that a narrow window can hold."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from foveate.cli import show

_SURE = 0.05


def quality(quality: dict[str, Any], baseline: str) -> Iterator[Any]:
    """Answers, task by task."""
    for task in quality["tasks"]:
        yield _quality(task, [r for r in quality["rows"] if r["task"] == task["name"]])
        if task["broken"]:
            yield f"[bold]{len(task['broken'])} examples could not be asked[/bold]; the first: " + escape(
                task["broken"][0]["why"]
            )
    yield (
        "[dim]Budget: mean visual tokens per LLM layer. Differences in points from the full model and from the "
        f"baseline, {baseline}, paired over the questions; * where Holm's corrected p is below 0.05. KL: first answer "
        "token, from the full model's distribution, nats.[/dim]"
    )
    if len(quality["tasks"]) > 1:
        yield _relative(quality["relative"])


def costs(cells: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """Times, cell by cell."""
    for cell in cells:
        yield from cost(cell)
    if cells:
        yield (
            "[dim]Milliseconds, medians; 1st: to the first token. Efficiency: a plain prompt that never had the "
            "dropped tokens over the method; 1 is all that dropping them can give.[/dim]"
        )


def _quality(task: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    n = task["examples"] - len(task["broken"])
    # Not all methods have been asked the same while it runs: what all of them were asked is what compares.
    rows = [r for r in rows if r["n"]] or rows
    asked = min((r["n"] for r in rows), default=n)
    so_far = f"{asked:,} of " if asked < n else ""
    title = f"[bold]{escape(task['name'])}[/bold]  {so_far}{n:,} questions, {task['metric']}"
    grid = show.table("method", "keep", "budget", "acc. %", "95%", "- full", "- base", "agree %", "KL", title=title)
    before = None
    for r in rows:
        if before not in (None, r["keep"]):
            grid.add_section()
        before = r["keep"]
        if r["accuracy"] is None:
            grid.add_row(r["method"], r["keep"], "", "-", Text("not possible", style="dim"))
            continue
        low, high = r["interval_95"]
        kl = r.get("kl_mean")
        failed = f" ({r['failed']} failed)" if r["failed"] else ""
        grid.add_row(
            r["method"] + failed,
            r["keep"],
            f"{r['budget']:.1f}",
            f"{100 * r['accuracy']:.1f}",
            f"{100 * low:.1f}-{100 * high:.1f}",
            _difference(r.get("vs_full")),
            _difference(r.get("vs_baseline")),
            f"{100 * r['agreement']:.1f}" if "agreement" in r else "",
            "" if kl is None else f"{kl:.3f}",
        )
    return grid


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{100 * found['difference']:+.1f}{'*' if found['p_holm'] < _SURE else ' '}"


def _relative(rows: list[dict[str, Any]]) -> Table:
    grid = show.table(
        "method", "keep", "budget", "mean of\nratios", "ratio of\nmeans", "mean\nscore", "worst", "task",
        title="[bold]Accuracy relative to the full model[/bold], %",
    )  # fmt: skip
    for r in rows:
        if r["mean_score"] is None:
            continue
        worst = r["worst"]
        grid.add_row(
            r["method"],
            r["keep"],
            f"{r['budget']:.1f}",
            *("" if r[k] is None else f"{100 * r[k]:.1f}" for k in ("mean_of_ratios", "ratio_of_means", "mean_score")),
            *(("", "") if worst is None else (f"{100 * worst['ratio']:.1f}", worst["task"])),
        )
    return grid


def cost(cell: dict[str, Any]) -> Iterator[Any]:
    """One cell of batch size and answer length."""
    title = f"[bold]Cost[/bold]  batch {cell['batch']}, {cell['length']} new tokens, {cell['repeats']} turns"
    rows: list[list[str] | None] = []
    before = None
    for r in cell["rows"]:
        if before not in (None, r["keep"]):
            rows.append(None)
        before = r["keep"]
        if "failed" in r:
            rows.append([r["method"], r["keep"], "[dim]not possible[/dim]"])
            continue
        s = {k: _ms(v["median"]) for k, v in r["seconds"].items() if isinstance(v, dict)}
        gain = {k: f"{v['median']:.2f}x" for k, v in r["speedup"].items()}
        efficiency = f"{r['efficiency']['total']['median']:.2f}" if "efficiency" in r else ""
        rows.append(
            [r["method"], r["keep"], *(s[k] for k in ("encode", "select", "prefill", "decode", "first_token")),
             gain["first_token"], s["total"], gain["total"], efficiency]
        )  # fmt: skip
    columns = ("method", "keep", "encode", "select", "prefill", "decode", "1st", "gain", "all", "gain", "effic.")
    yield from show.fitted(columns, rows, ("encode", "decode"), title)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def comparison(found: dict[str, Any]) -> Iterator[Any]:
    """Two benchmarks side by side."""
    yield f"A: {escape(found['a']['name'])}\nB: {escape(found['b']['name'])}"
    for line in found["differences"]:
        yield f"[bold]not the same:[/bold] {escape(line)}"
    rows: list[list[str]] = []
    for r in found["rows"]:
        p = r["paired"]
        shown = ["", "", "", ""]
        if p is not None:
            low, high = (f"{100 * p[k]:+.1f}" for k in ("low", "high"))
            shown = [_difference(p), f"{low} to {high}", f"{p['p_holm']:.3f}", f"{r['questions']:,}"]
        rows.append(
            [r["task"], r["method"], r["keep"], *("" if r[s] is None else f"{100 * r[s]:.1f}" for s in ("a", "b")),
             *shown, *("" if r[s] is None else _ms(r[s]) for s in ("a_seconds", "b_seconds"))]
        )  # fmt: skip
    columns = ("task", "method", "keep", "A %", "B %", "B - A", "95%", "p", "n", "A ms", "B ms")
    yield from show.fitted(columns, rows, ("p", "n", "A ms", "B ms"))
    yield (
        "[dim]Paired over the n questions that both asked; p by Holm over these rows, * below 0.05. Milliseconds to "
        "the first token. Times of two runs compare only where both ran on the same quiet machine.[/dim]"
    )
    if found["only"]:
        yield f"[dim]In one of them only: {escape(', '.join(found['only']))}[/dim]"
