"""From a method's name to its function: Foveate's own, those of installed packages, and any module:function.

A package offers methods by entry points of the group `foveate.methods`: name = "module:function", a function that takes
`keep` and returns a `Plan`. They are looked for when a name is, and imported when it is used.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from foveate import typed
from foveate.errors import PlanError, short, unknown
from foveate.plan import Plan
from foveate.plan_text import trust

Method = Callable[..., Plan]
GROUP = "foveate.methods"


def offered() -> dict[str, EntryPoint]:
    """What installed packages offer, by name; names that Foveate has itself are left out."""
    from foveate.methods import METHODS

    return {e.name: e for e in sorted(entry_points(group=GROUP), key=lambda e: e.name) if e.name not in METHODS}


def names() -> list[str]:
    """Foveate's methods, then those of installed packages."""
    from foveate.methods import METHODS

    return [*METHODS, *offered()]


def find(name: str) -> Method:
    """The function of a method.

    Args:
        name: of a method, Foveate's or an installed package's, or "module:function" of any that can be imported.

    Raises:
        PlanError: no such method, or one that cannot be imported or is no function.
    """
    from foveate.methods import METHODS

    if not isinstance(name, str):
        raise PlanError(f"a method is named by text, not by {short(repr(name))}; see foveate list")
    if name in METHODS:
        return METHODS[name]
    plugins = offered()
    if name in plugins:
        return _imported(name, plugins[name].value)
    if ":" in name:
        return _imported(name, name)
    raise PlanError(unknown("method", name, [*METHODS, *plugins]))


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """What a method takes, `keep` and `depth` among it.

    Raises:
        PlanError: there is no such method.
    """
    return inspect.signature(find(name)).parameters


def method(name: str, **options: Any) -> Plan:
    """The plan of a method by name, for callers that hold names and options as text.

    Raises:
        PlanError: no such method, no such option, or a value that the method refuses.
    """
    known = parameters(name)
    for option in options:
        if option not in known:
            where = name.replace(":", ".") if ":" in name else f"foveate.methods.{name}"
            raise PlanError(unknown(f"option of {name}", option, known, see=f"help({where})"))
    if missing := [p.name for p in known.values() if p.default is p.empty and p.name not in options]:
        raise PlanError(f"{name} needs {', '.join(missing)}; for example {name}(keep=0.25)")
    typed.check(options, typed.hints_of(find(name)), PlanError)
    plan = find(name)(**options)
    if not isinstance(plan, Plan):
        raise PlanError(f"{name} returned a {type(plan).__name__}; a method returns a foveate.Plan")
    return plan


def _imported(name: str, value: str) -> Method:
    module, _, path = value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as e:
        raise PlanError(f"the method {name!r} cannot be imported: {type(e).__name__}: {e}") from None
    if not callable(found):
        raise PlanError(f"the method {name!r} is a {type(found).__name__}; it must be a function that returns a Plan")
    # Whoever named it has run it: its selectors may stand in plan files that this process writes and reads.
    trust(module)
    return found  # type: ignore[no-any-return]
