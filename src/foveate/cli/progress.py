"""How far a long command is: a bar for a person at a terminal, now and then a plain line for a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import typer

_EVERY = 10.0
"""Seconds between two lines of a log."""


class Progress(Protocol):
    """(what, how many are done, of how many: None where nobody knows)."""

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        """Show it."""


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Shows what it is told on stderr, one row for each `what`, as long as the `with` lasts."""
    if quiet:
        yield lambda what, done, total=None: None
    elif sys.stderr is not None and sys.stderr.isatty():
        with _bars() as shown:
            yield shown
    else:
        yield _Lines()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich import progress as rich

    from foveate.cli import show

    columns = (
        rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(),
        rich.TextColumn("left:"), rich.TimeRemainingColumn(),
    )  # fmt: skip
    with rich.Progress(*columns, transient=True, console=show.errors()) as bar:
        rows: dict[str, Any] = {}

        def update(what: str, done: int, total: int | None = None) -> None:
            if (key := what if total is not None else "") not in rows:
                rows[key] = bar.add_task(what, total=total)
            bar.update(rows[key], completed=done, total=total, description=what)

        yield update


class _Lines:
    """One line at the beginning and at the end, and every few seconds between."""

    def __init__(self) -> None:
        self.begun: dict[str, tuple[float, int]] = {}
        self.said = 0.0

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        now = time.monotonic()
        key = what if total is not None else ""
        new = key not in self.begun
        began, before = self.begun.setdefault(key, (now, done))
        if not new and done != total and now - self.said < _EVERY:
            return
        self.said = now
        line = what
        if total is not None:
            line += f": {done:,} of {total:,}"
            if before < done < total:
                line += f", about {_span((now - began) / (done - before) * (total - done))} left"
        typer.echo(f"foveate: {line}", err=True)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
