"""The command line, a module for each command. Status 2: the caller can put it right.

No command's module imports PyTorch or transformers before the command runs: help and wrong words are answered at once.
"""

import re
import signal
import warnings
from typing import Annotated, Any

import typer

from foveate.cli.guard import DEBUG, Guard

app = typer.Typer(
    cls=Guard,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from foveate import __version__

        typer.echo(f"foveate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Print where in the code an error came up.")] = False,
) -> None:
    """Drop the visual tokens a multimodal LLM does not need, before it pays for them."""


def main() -> None:
    """The `foveate` command."""
    warnings.showwarning = _note
    # Cluster managers ask this way before they kill: what Ctrl-C saves is then saved too.
    signal.signal(signal.SIGTERM, _interrupt)
    app(prog_name="foveate")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


_noted: set[str] = set()


def _note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning as one line for a person, without the place in the code; what is for programmers is left out.

    Said once: a benchmark meets the same thing a thousand times, with other numbers in it.
    """
    same = re.sub(r"\d[\d.]*", "#", str(message))
    if issubclass(category, UserWarning) and same not in _noted:
        _noted.add(same)
        typer.echo(f"foveate: note: {message}", err=True)


from foveate.cli import bench, demo, doctor, listing, run, search, serve, train, ui  # noqa: E402, F401  (they register their commands on `app`)
