"""JSON that came from anyone: read, or one sentence on why it cannot be.

Stricter than Python's own reader: no NaN or Infinity, which JSON does not have, no numbers that overflow to them, and
neither depth nor length of a number ends in an error of another kind.
"""

import json
import math
from typing import Any, NoReturn

from foveate.errors import FoveateError, short

_DIGITS = 4_300
"""Python's own limit to the digits of a whole number."""


class NotJSON(FoveateError):
    """The text is no JSON that can be used; the message says where and why."""


def read(text: str) -> Any:
    """The value of a JSON text; a byte-order mark before it is passed over.

    Raises:
        NotJSON: it is none.
    """
    try:
        return json.loads(text.removeprefix("\ufeff"), parse_constant=_no, parse_float=_finite, parse_int=_whole)
    except json.JSONDecodeError as e:
        where = f"column {e.colno}" if "\n" not in text.strip() else f"line {e.lineno}, column {e.colno}"
        raise NotJSON(f"{e.msg} at {where}") from None
    except RecursionError:
        raise NotJSON("it is nested too deeply") from None


def _no(word: str) -> NoReturn:
    raise NotJSON(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise NotJSON(f"the number {short(text)} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise NotJSON(f"a number has {len(text):,} digits")
    return int(text)
