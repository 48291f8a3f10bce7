"""A plan's text: selectors as plain data and back, and the JSON around them.

Only Foveate's own selectors can be named, and those of packages that offer methods: a plan file may come from anyone,
and importing a module runs it.
"""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from typing import Any

from foveate import reading, typed
from foveate.errors import PlanError, short, unknown

VERSION = 1

_HOMES = ("foveate.methods.", "foveate.selection", "foveate.pointer.")
_trusted: set[str] = set()


def trust(module: str) -> None:
    """Let plans hold selectors of this module's package, because somebody named a method of it in this process."""
    _trusted.add(module.partition(".")[0])


def _may_hold(module: str) -> bool:
    top = module.partition(".")[0]
    if module.startswith(_HOMES) or top in _trusted:
        return True
    return any(top == e.value.partition(":")[0].partition(".")[0] for e in entry_points(group="foveate.methods"))


def dump(value: Any) -> Any:
    """A selector, or a value inside one, as plain data that `load` takes.

    Raises:
        PlanError: no dataclass of Foveate's own, nor a plain value.
    """
    if callable(getattr(value, "to_plan", None)):
        # A learned selector: its numbers stay in their folder, and the plan names that.
        kind = type(value)
        return {"kind": f"{kind.__module__}:{kind.__qualname__}", **value.to_plan()}
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if not _may_hold(kind.__module__):
            raise PlanError(
                f"{kind.__module__}.{kind.__qualname__} cannot go into a plan file: nobody could read it back"
            )
        values = {f.name: dump(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"kind": f"{kind.__module__}:{kind.__qualname__}", **values}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise PlanError(f"{value!r} cannot go into a plan file; selectors are dataclasses of numbers and text")


def load(data: Any) -> Any:
    """A selector from what `dump` gave.

    Raises:
        PlanError: it names something outside Foveate, something that is no selector, or values it does not take.
    """
    if not isinstance(data, Mapping):
        return data
    values = {name: load(value) for name, value in data.items() if name != "kind"}
    named = data.get("kind")
    module, _, name = named.partition(":") if isinstance(named, str) else ("", "", "")
    called = short(repr(named))
    if not _may_hold(module):
        raise PlanError(
            f"the plan names {called}; plan files hold Foveate's own selectors only, and those of installed packages "
            "that offer methods"
        )
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise PlanError(f"the plan names {called}, which this Foveate does not have; update it") from None
    make: Any = getattr(kind, "from_plan", kind)
    if not (isinstance(kind, type) and (is_dataclass(kind) or make is not kind)):
        raise PlanError(f"the plan names {called}, which is no selector")
    if make is kind:
        takes = typed.hints_of(kind)
        typed.check(values, takes, PlanError)
        if takes and (strange := sorted(values.keys() - takes.keys())):
            raise PlanError(unknown(f"setting of {name}", strange[0], takes, see="written by Plan.to_json()"))
    try:
        return make(**values)
    except TypeError as e:
        raise PlanError(f"{called} does not take these values: {e}") from None


def known(data: Any, names: Collection[str], what: str) -> Mapping[str, Any]:
    """An object of a plan's text that holds no key but these.

    Raises:
        PlanError: it is no object, or holds another key: what nobody reads would be ignored.
    """
    if not isinstance(data, Mapping):
        raise PlanError(f"{what} is {short(repr(data))}; it must be an object; write plans with Plan.to_json()")
    if strange := sorted(data.keys() - set(names)):
        raise PlanError(unknown(f"key of {what}", strange[0], names, see="written by Plan.to_json()"))
    return data


def read(text: str) -> dict[str, Any]:
    """The object in a plan's text.

    Raises:
        PlanError: not JSON, no plan, or one of another version.
    """
    if not isinstance(text, str):
        raise PlanError(f"this is no plan: from_json takes text, not {type(text).__name__}")
    try:
        data = reading.read(text)
    except reading.NotJSON as e:
        raise PlanError(f"this is no plan: not JSON ({e})") from None
    if not isinstance(data, dict) or "foveate_plan" not in data:
        raise PlanError('this is no plan: the key "foveate_plan" is missing; write plans with Plan.to_json()')
    if type(version := data["foveate_plan"]) is not int or version != VERSION:
        raise PlanError(
            f"plan file of version {short(repr(version))}, but this Foveate reads version {VERSION}; update one of them"
        )
    return data
