"""One error class, so that a caller can catch all that Foveate has to say, and a few names for where it went wrong."""

import difflib
from collections.abc import Iterable


class FoveateError(ValueError):
    """Something the caller can put right. The message names the value, the limit and the way out."""


class PlanError(FoveateError):
    """A plan that cannot mean anything, or cannot apply to this model or this prompt."""


class ModelError(FoveateError):
    """A model, a cache or a way of calling it that Foveate does not support."""


class SignalError(FoveateError):
    """A selector asks for a signal that this model, cut or call cannot give."""


def unknown(kind: str, name: object, names: Iterable[str], see: str = "foveate list") -> str:
    """The sentence for a wrong name: what was asked, the nearest right one, and where the list is."""
    known = sorted(names)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? ({see})" if near else f"known: {', '.join(known)} ({see})"
    return f"no {kind} {str(name)!r}; {hint}"
