"""Small pieces of HTML, and numbers as people read them."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

MINUS = "\N{MINUS SIGN}"
EN = "\N{EN DASH}"
NONE = '<span class="none">\N{EN DASH}</span>'


def esc(text: object) -> str:
    """Text that cannot be read as markup."""
    return html.escape(str(text), quote=True)


def table(head: Sequence[str], rows: Iterable[str], caption: str = "") -> str:
    """A table that scrolls sideways in its own box; cells of `head` are markup."""
    cells = "".join(f'<th scope="col">{h}</th>' for h in head)
    about = f"<caption>{caption}</caption>" if caption else ""
    body = "".join(rows)
    return f'<div class="wide" tabindex="0"><table>{about}<thead><tr>{cells}</tr></thead>{body}</table></div>\n'


def row(name: str, cells: Iterable[str], kind: str = "") -> str:
    """A row with its name in front; all is markup."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<tr{attribute}><th scope="row">{name}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'


def group(title: str, rows: Iterable[str], columns: int) -> str:
    """Rows under a line of their own; the title is markup."""
    head = f'<tr class="group"><th scope="rowgroup">{title}</th><td colspan="{columns - 1}"></td></tr>'
    return f"<tbody>{head}{''.join(rows)}</tbody>"


def percent(x: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return NONE if x is None else f"{100 * x:.{digits}f}"


def points(x: float) -> str:
    """A difference of shares in points, always with its sign."""
    text = f"{100 * abs(x):.1f}"
    return text if text == "0.0" else f"{MINUS if x < 0 else '+'}{text}"


def span(low: float, high: float) -> str:
    """An interval of shares, small."""
    return f"<small>{percent(low)}{EN}{percent(high)}</small>"


def count(x: float | None) -> str:
    """A number of tokens."""
    if x is None:
        return NONE
    return f"{x:,.0f}" if x >= 100 or float(x).is_integer() else f"{x:,.1f}"


def p_value(p: float) -> str:
    """A chance."""
    return "&lt;0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def ms(x: float) -> str:
    """Seconds as milliseconds, three digits that matter."""
    value = 1e3 * x
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(x: float) -> str:
    """A ratio."""
    return f"{x:.2f}\N{MULTIPLICATION SIGN}"


def size(n: float | None) -> str:
    """Bytes."""
    if n is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:,.1f} {unit}"
        n /= 1024
    return f"{n:,.2f} GiB"


def flops(x: float | None) -> str:
    """Floating-point operations."""
    if x is None:
        return NONE
    for unit in ("", "k", "M", "G"):
        if x < 1000:
            return f"{x:.3g} {unit}"
        x /= 1000
    return f"{x:,.2f} T"


def by_keep(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows sorted into groups of one stated keep, in their order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for r in rows:
        found.setdefault(r["keep"], []).append(r)
    return found
