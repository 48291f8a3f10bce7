"""One error class, so that a caller can catch all that Foveate has to say, and a few names for where it went wrong."""

import difflib
import re
from collections.abc import Iterable


class FoveateError(ValueError):
    """Something the caller can put right. The message names the value, the limit and the way out."""

    rule: str = ""
    """Which rule a model refuses a plan by, where one does (`foveate.hf.plan_checks.WHY`)."""


class PlanError(FoveateError):
    """A plan that cannot mean anything, or cannot apply to this model or this prompt."""


class ModelError(FoveateError):
    """A model, a cache or a way of calling it that Foveate does not support."""


class SignalError(FoveateError):
    """A selector asks for a signal that this model, cut or call cannot give."""


def unknown(kind: str, name: object, names: Iterable[str], see: str = "foveate list") -> str:
    """The sentence for a wrong name: what was asked, the nearest right one, and where the list is."""
    known, name = sorted(names), short(str(name))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? ({see})" if near else f"known: {', '.join(known)} ({see})"
    return f"no {kind} {name!r}; {hint}"


def short(text: str, most: int = 60) -> str:
    """Text from outside, cut to what a sentence can hold."""
    return text if len(text) <= most else f"{text[: most - 12]}... ({len(text):,} characters)"


def install(extra: str) -> str:
    """The command that brings what an extra of this package names, wherever the package itself came from."""
    import importlib.metadata  # a tenth of the time that help takes

    try:
        lines = importlib.metadata.requires("foveate") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    wanted = [line.partition(";")[0].strip() for line in lines if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    if not wanted:
        return f"pip install -e '.[{extra}]' in a clone of Foveate"
    return "pip install " + " ".join(f"'{w}'" for w in wanted)
