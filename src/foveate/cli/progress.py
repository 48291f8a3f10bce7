"""How far a long command is: a bar for a person at a terminal, now and then a plain line for a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

_EVERY = 10.0
"""Seconds between two lines of a log."""


class Progress:
    """Told (what, how many are done, of how many: None where nobody knows). This one shows nothing."""

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        """Show it."""

    def say(self, *parts: Any) -> None:
        """Show tables or lines beside it."""


@contextmanager
def progress(quiet: bool = False) -> Iterator[Progress]:
    """Shows what it is told on stderr, one row for each `what`, as long as the `with` lasts."""
    if quiet:
        yield Progress()
    elif sys.stderr is not None and sys.stderr.isatty():
        with _Bars.shown() as bars:
            yield bars
    else:
        yield _Lines()


class _Bars(Progress):
    """Rows with a bar and the time left."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._rows = bar, dict[str, Any]()

    @classmethod
    @contextmanager
    def shown(cls) -> "Iterator[_Bars]":
        from rich import progress as rich

        from foveate.cli import show

        columns = (
            rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(), rich.TextColumn("left:"), rich.TimeRemainingColumn(),
        )  # fmt: skip
        with rich.Progress(*columns, transient=True, console=show.errors()) as bar:
            yield cls(bar)

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        if (key := what if total is not None else "") not in self._rows:
            self._rows[key] = self._bar.add_task(what, total=total)
        self._bar.update(self._rows[key], completed=done, total=total, description=what)

    def say(self, *parts: Any) -> None:
        for part in parts:
            self._bar.console.print(part)


class _Lines(Progress):
    """One line at the beginning and at the end, and every few seconds between."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[float, int]] = {}
        self._said = 0.0

    def __call__(self, what: str, done: int, total: int | None = None) -> None:
        now = time.monotonic()
        key = what if total is not None else ""
        new = key not in self._begun
        began, before = self._begun.setdefault(key, (now, done))
        if not new and done != total and now - self._said < _EVERY:
            return
        self._said = now
        line = what
        if total is not None:
            line += f": {done:,} of {total:,}"
            if before < done < total:
                line += f", about {_span((now - began) / (done - before) * (total - done))} left"
        typer.echo(f"foveate: {line}", err=True)

    def say(self, *parts: Any) -> None:
        from foveate.cli import show

        for part in parts:
            show.errors().print(part)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
