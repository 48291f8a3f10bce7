"""From the words of a command line to a plan, with every word checked before a model is loaded."""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from foveate import files
from foveate.errors import FoveateError, PlanError, short
from foveate.reading import NotJSON, read

if TYPE_CHECKING:
    from foveate.plan import Plan

DEFAULT_METHOD, DEFAULT_KEEP = "tops", "0.222"
ANY_DEPTH = 1_000
"""Stands for a model's depth while none is known: words are checked first."""


def keep_value(text: str) -> float | int:
    """`--keep` as a fraction or, without a point, a number of tokens.

    Raises:
        PlanError: neither, or too large to be one.
    """
    try:
        return int(text) if text.strip().lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise PlanError(
            f"keep is {short(text)!r}; write a fraction such as 0.222, or a number of tokens such as 64"
        ) from None


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`--set name=value` as arguments: numbers, true, false, null, lists in JSON; anything else is text.

    Raises:
        PlanError: no "=", or a name twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise PlanError(f"--set {pair!r} is no setting; write --set name=value")
        if name in values:
            raise PlanError(f"--set names {name!r} twice; give it once")
        values[name] = _value(text)
    return values


def words(option: str, text: str) -> list[str]:
    """A list with commas.

    Raises:
        FoveateError: nothing in it.
    """
    # `lmms:gqa,pope` is two tasks: the prefix goes on until the next one.
    words: list[str] = []
    for word in (w.strip() for w in text.split(",")):
        before = words[-1] if words else ""
        more = option == "--task" and before.startswith("lmms:") and word and ":" not in word and word != "tiny"
        words.append(f"lmms:{word}" if more and not word.endswith(".jsonl") else word)
    if not all(words) or not words:
        raise FoveateError(f"{option} {text!r} has an empty entry; write names with commas between them")
    return words


def numbers(option: str, text: str) -> list[int]:
    """Whole numbers with commas, each once.

    Raises:
        FoveateError: one is none, or below 1.
    """
    try:
        found = [int(w) for w in words(option, text)]
    except ValueError:
        raise FoveateError(f"{option} is {text!r}; write whole numbers with commas between them") from None
    if min(found) < 1:
        raise FoveateError(f"{option} is {text!r}; every number must be at least 1")
    return list(dict.fromkeys(found))


def settings_by_method(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`--set method.name=value`, by method.

    Raises:
        FoveateError: no method before the point.
    """
    found: dict[str, list[str]] = {}
    for pair in pairs:
        name, point, rest = pair.partition(".")
        if not point or "=" in name or not name:
            raise FoveateError(f"--set {pair!r} names no method; write --set METHOD.NAME=VALUE")
        found.setdefault(name, []).append(rest)
    return {name: settings(rest) for name, rest in found.items()}


def parameters(name: str) -> Mapping[str, inspect.Parameter]:
    """What a method takes, `keep` and `depth` among it.

    Raises:
        PlanError: there is no such method.
    """
    from foveate.methods import registry

    return registry.parameters(name)


def build(name: str, keep: str, values: Mapping[str, Any], depth: int) -> "Plan":
    """The method's plan for a model of `depth` decoder layers.

    Raises:
        PlanError: an unknown method or setting, a keep out of range, or values that the method refuses.
    """
    from foveate.methods import method

    if reserved := {"keep", "depth"} & values.keys():
        raise PlanError(f"--set {reserved.pop()} is not for --set: use --keep; depth is read from the model")
    arguments = dict(values)
    if "depth" in parameters(name):
        arguments["depth"] = depth
    try:
        return method(name, keep=keep_value(keep), **arguments)
    except FoveateError:
        raise
    except (TypeError, ValueError, ArithmeticError):
        # A value of the wrong kind surfaces wherever it is first used; what was asked says more than that place.
        asked = short(", ".join(f"{k}={v!r}" for k, v in values.items()), 200)
        raise PlanError(f"{name} cannot be made with {asked}; its settings: foveate list --json") from None


def read_plan(path: str | os.PathLike[str]) -> "Plan":
    """A plan file.

    Raises:
        PlanError: it is missing, or no plan that this version reads.
    """
    from foveate.plan import Plan

    text = files.read(path, "the plan")
    try:
        return Plan.from_json(text)
    except PlanError as e:
        raise PlanError(f"{short(os.fspath(path))}: {e}") from None


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "null": None}
    if (word := text.strip().lower()) in words:
        return words[word]
    try:
        value = read(text)
    except NotJSON:
        return text
    if isinstance(value, dict):
        return text
    # Plans are hashable values, so a list becomes a tuple, at every depth.
    return _frozen(value)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value
