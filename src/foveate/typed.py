"""Values from outside against the annotations they are meant for: a wrong kind is named where it comes in."""

import functools
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from foveate.errors import FoveateError, PlanError, short

P = ParamSpec("P")
R = TypeVar("R")
_MOST = 2**63 - 1
"""What PyTorch, NumPy and files hold: beyond it every one of them fails in its own way."""
_WORDS: dict[Any, str] = {
    float: "a finite number",
    int: "a whole number of 64 bits",
    str: "text",
    bool: "true or false",
    NoneType: "null",
}


def check(values: Mapping[str, Any], hints: Mapping[str, Any], error: type[FoveateError] = FoveateError) -> None:
    """Refuse a value that its annotation does not allow; names without one pass.

    Raises:
        FoveateError: of the class `error`.
    """
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            raise error(f"{name} is {short(repr(value))}; it must be {words(hints[name])}")


def checked(method: Callable[P, R]) -> Callable[P, R]:
    """A method that refuses arguments of a wrong kind, NaN and infinity among them; of `keep` a cut says more.

    Numbers of other libraries reach it as Python's own: methods tell shares from counts by their type.

    Raises:
        PlanError: naming the argument, what it is and what it must be.
    """
    signature = inspect.signature(method)
    hints = functools.cache(lambda: hints_of(method))

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        given.arguments = {name: plain(value) for name, value in given.arguments.items()}
        check({name: value for name, value in given.arguments.items() if name != "keep"}, hints(), PlanError)
        return method(*given.args, **given.kwargs)

    return wrapper


def plain(value: Any) -> Any:
    """A number of any library as Python's own; what is none comes back as it is."""
    if isinstance(value, int | float) and type(value) in (bool, int, float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def hints_of(target: Any) -> dict[str, Any]:
    """The annotations of a function's parameters or of a dataclass's fields; none where they cannot be resolved."""
    try:
        hints = typing.get_type_hints(target)
    except (NameError, TypeError, AttributeError):  # a package of somebody else's, under TYPE_CHECKING
        return {}
    hints.pop("return", None)
    return {name: hint for name, hint in hints.items() if get_origin(hint) is not ClassVar}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated kind. Numbers must be finite, and truth values are no numbers."""
    kind = get_origin(hint)
    if kind in (Union, UnionType):
        return any(fits(value, h) for h in get_args(hint))
    if kind is Literal:
        return any(type(value) is type(a) and value == a for a in get_args(hint))
    if kind is tuple:
        inside = get_args(hint)
        if not isinstance(value, tuple | list):
            return False
        if inside[-1:] == (...,):
            return all(fits(v, inside[0]) for v in value)
        return len(value) == len(inside) and all(map(fits, value, inside))
    if hint in (None, NoneType):
        return value is None
    if hint is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return whole and -_MOST <= int(typing.cast(Any, value)) <= _MOST
    # `Any` is a class to Python 3.11, of which nothing is an instance.
    return isinstance(value, hint) if isinstance(hint, type) and hint is not Any else True


def words(hint: Any) -> str:
    """What an annotation asks for, for a sentence."""
    kind = get_origin(hint)
    if kind in (Union, UnionType):
        return _or(words(h) for h in get_args(hint))
    if kind is Literal:
        return _or(f'"{a}"' if isinstance(a, str) else repr(a) for a in get_args(hint))
    if kind is tuple:
        return f"a list of which each is {words(get_args(hint)[0])}"
    return _WORDS.get(hint) or str(getattr(hint, "__name__", hint))


def _or(parts: Iterable[str]) -> str:
    *first, last = dict.fromkeys(parts)
    return f"{', '.join(first)} or {last}" if first else last
