"""A setting that nothing would read is refused: whoever gives one believes that it changes something."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from foveate.errors import PlanError, short


def refuse_idle(
    method: Callable[..., Any], given: Mapping[str, Any], names: Iterable[str], where: str, way: str = ""
) -> None:
    """Refuse settings that have no effect and are not the method's own defaults.

    Args:
        method: the function whose defaults they are.
        given: its arguments by name; others may be among them.
        names: of those that have no effect.
        where: with which others they have none, as a caller writes those.
        way: with what they would have one, the same; by default only leaving them out is advised.

    Raises:
        PlanError: naming the first of them.
    """
    usual = inspect.signature(method).parameters
    for name in names:
        if given[name] != usual[name].default:
            instead = f", or give {way}" if way else ""
            raise PlanError(f"{name}={short(repr(given[name]))} has no effect with {where}; leave it out{instead}")
