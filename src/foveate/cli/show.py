"""What the commands print: tables for people, one JSON object for programs."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from foveate.cli.progress import progress

if TYPE_CHECKING:
    from foveate.engines.hf import Comparison
    from foveate.engines.loading import Engine
    from foveate.hf.report import Report

_FILE = 160
"""Columns where nobody says how wide the page is."""
_ROOMY = 10_000
"""Columns enough to see how wide a table would like to be."""


def as_json(data: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(data, indent=2))


def console() -> Console:
    """Stdout, looked up when it is used: tests and pipes replace it. Numbers keep the table's own colours."""
    page = Console(highlight=False)
    if not page.is_terminal and "COLUMNS" not in os.environ:
        # A file has no edge to cut a table at.
        page.width = _FILE
    return page


def errors() -> Console:
    """Stderr: progress, which must not stand in what a program reads."""
    return Console(stderr=True, highlight=False)


def load(model: str, device: str, dtype: str, quiet: bool = False) -> "Engine":
    """The model, announced."""
    from foveate.engines import hf

    loading(model, quiet)
    return hf.load(model, device, dtype)


def loading(model: str, quiet: bool = False) -> None:
    """A word on stderr before the seconds that a model takes to load."""
    from transformers.utils import logging

    # No bars for weight files: the model is loaded for a question, and the answer is what a reader wants.
    logging.disable_progress_bar()
    if not quiet:
        typer.echo(f"foveate: loading {model} ...", err=True)


def table(*columns: str, title: str | None = None) -> Table:
    """An open table; the first column is text, the others are numbers. Too wide a cell goes on below, uncut."""
    grid = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0), header_style="dim"
    )
    for i, name in enumerate(columns):
        grid.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    return grid


def fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str] | None], spare: Sequence[str], title: str | None = None
) -> Iterator[Any]:
    """A table of `rows`, None a line between them; on a narrow page `spare` columns are left out, and named."""
    page, gone = console(), list[str]()
    roomy = page.options.update(max_width=_ROOMY)
    while True:
        left = [i for i, name in enumerate(columns) if name not in gone]
        grid = table(*(columns[i] for i in left), title=title)
        for row in rows:
            if row is None:
                grid.add_section()
            else:
                grid.add_row(*(row[i] for i in left if i < len(row)))
        if len(gone) == len(spare) or Measurement.get(page, roomy, grid).maximum <= page.width:
            break
        gone.append(spare[len(gone)])
    yield grid
    if gone:
        yield f"[dim]Left out for want of room: {', '.join(gone)}.[/dim]"


def comparison(c: "Comparison", label: str) -> Table:
    """Tokens, cache and times of both answers, side by side."""
    report = c.pruned.report
    assert report is not None
    grid = table("", "plain", label, "plain / pruned")
    left = sum(i.per_layer[-1] for i in report.images)
    full, kept = report.cache_tokens_full, report.cache_tokens
    budget = sum(i.budget for i in report.images)
    grid.add_row(
        "visual tokens, mean per layer",
        f"{report.tokens:,}",
        f"{budget:,.1f}",
        times(report.tokens / budget if budget else None),
    )
    grid.add_row(
        "visual tokens, last layer", f"{report.tokens:,}", f"{left:,}", times(report.tokens / left if left else None)
    )
    grid.add_row("KV-cache entries after prefill", f"{full:,}", f"{kept:,}", times(full / kept))
    grid.add_section()
    plain, pruned, ratios = c.plain.times, c.pruned.times, c.ratios()
    grid.add_row("encode", ms(plain.encode), ms(pruned.encode), times(ratios["encode"]))
    grid.add_row("select", "", ms(pruned.select), "")
    grid.add_row("prefill", ms(plain.prefill), ms(pruned.prefill), times(ratios["prefill"]))
    lengths = {c.plain.new_tokens, c.pruned.new_tokens}
    decode = (
        f"decode, {c.plain.new_tokens} tokens"
        if len(lengths) == 1
        else f"decode, {c.plain.new_tokens} and {c.pruned.new_tokens} tokens"
    )
    grid.add_row(decode, ms(plain.decode), ms(pruned.decode), times(ratios["decode"]))
    grid.add_section()
    grid.add_row("to the first token", ms(plain.first_token), ms(pruned.first_token), times(ratios["first_token"]))
    grid.add_row("in all", ms(plain.total), ms(pruned.total), times(ratios["total"]))
    return grid


def cuts(report: "Report") -> list[str]:
    """One line an image: how many tokens each cut left."""
    from foveate.viz import where

    lines = []
    for image in report.images:
        steps = "".join(f" -> {c.count} {where(c.at)}" for c in image.cuts)
        lines.append(f"{image.kind} {image.image + 1}: {image.tokens}{steps}")
    return lines


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    return f"{seconds * 1e3:.1f} ms"


def times(ratio: float | None) -> str:
    """A ratio; nothing where there is none."""
    return "" if ratio is None else f"{ratio:.2f}x"


@contextmanager
def searching(quiet: bool, name: str) -> Iterator[tuple[Callable[[], None], Callable[[float, float], None]]]:
    """A live line on stderr for a search: (a batch was done, a plan was judged: loss and cost)."""
    seen: list[tuple[float, float]] = []
    with progress(quiet) as bar:
        batches, line = 0, f"{name}: the full model"

        def step() -> None:
            nonlocal batches
            batches += 1
            # In a log, too, that it goes on: a plan may take minutes.
            bar(f"{line}; batch {batches}", batches)

        def watch(loss: float, cost: float) -> None:
            nonlocal line
            seen.append((loss, cost))
            best = min(seen)
            line = (
                f"{name}: {len(seen)} plans; least loss {best[0]:.4f} at {best[1]:.1%} of the operations; "
                f"last {loss:.4f} at {cost:.1%}"
            )
            bar(line, batches)

        bar(line, 0)
        yield step, watch
