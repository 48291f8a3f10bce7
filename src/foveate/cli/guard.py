"""Whatever goes wrong ends here as one line on stderr. Status 2: the caller can put it right; 1: a fault of ours."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from foveate.errors import FoveateError, short

DEBUG = "--debug"
_CIVIL: tuple[type[BaseException], ...] = (SystemExit, typer.Exit, typer.Abort)
_CIVIL += tuple(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""What typer turns into a page and a status. Where its click lives differs from release to release."""
_GO_ON = {
    "bench": "finished answers are kept; the same command goes on where it stopped",
    "search": "what was evaluated is kept; the same command goes on where it stopped",
    "train": "finished updates are kept; the same command goes on where it stopped",
}


class Guard(TyperGroup):
    """The root of all commands."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Parse and run, from the first word to the last byte of output."""
        words = list(sys.argv[1:] if args is None else args)
        # Wherever it stands: who needs it has just seen an error, and puts it at the end of the line.
        end = words.index("--") if "--" in words else len(words)
        debug = DEBUG in words[:end]
        words = [w for w in words[:end] if w != DEBUG] + words[end:]
        try:
            if sys.stdout is None:
                raise FoveateError("standard output is closed, so there is nowhere to answer; leave it open")
            try:
                return super().main(words, *rest, **options)
            finally:
                _flush()
        except _CIVIL:
            raise
        except Exception as e:
            if debug:
                traceback.print_exc()
            status, line = _say(e)
            _tell(line)
            raise SystemExit(status) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends it with a word on how to go on."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            more = _GO_ON.get(ctx.invoked_subcommand or "")
            _tell("stopped" + (f"; {more}" if more else ""))
            raise typer.Exit(130) from None


def _say(e: Exception) -> tuple[int, str]:
    """The status, and the sentence."""
    if isinstance(e, FoveateError):
        return 2, str(e)
    if isinstance(e, OSError) and e.strerror:
        return 2, e.strerror + (f": {short(str(e.filename))}" if e.filename else "")
    # PyTorch's own, of a GPU and of the machine, told without importing it.
    if isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(e):
        return 2, "out of memory; ask for less at a time"
    lines = str(e).strip().splitlines()
    what = f"{type(e).__name__}{f': {short(lines[0], 200)}' if lines else ''}"
    return 1, f"{what} (nobody foresaw this: add {DEBUG} for the place, and please report it)"


def _tell(line: str) -> None:
    typer.echo("foveate: " + " ".join(line.splitlines()), err=True)


def _flush() -> None:
    """What is still in the buffer goes out here, where a full disk can be named, and not while Python ends."""
    try:
        sys.stdout.flush()
    except OSError as e:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (for what is left of this process)
        if e.errno == errno.EPIPE:  # `| head`: it has read enough
            raise SystemExit(1) from None
        raise FoveateError(f"cannot write to standard output: {e.strerror}") from None
    except ValueError:  # closed by a test's runner
        return
