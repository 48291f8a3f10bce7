"""Accuracy against budget and against time: a mark a way, a line a method, and the front that nobody beats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from foveate.bench.page.markup import esc
from foveate.bench.ways import ALWAYS, FULL

_W, _H = 440, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 14, 30, 46
_ASIDE = 16
"""Over so much of the page the marks of one budget may be spread."""
_MARKS = ("circle", "square", "triangle", "diamond", "down", "plus", "cross", "star")


@dataclass(frozen=True)
class Point:
    """One way: where it stands, its interval, and what to call it."""

    method: str
    keep: str
    x: float
    y: float
    low: float | None
    high: float | None


def section(results: dict[str, Any]) -> str:
    """Both charts and their common legend."""
    quality = results["quality"]
    methods = list(dict.fromkeys(r["method"] for r in quality["rows"] if r["way"] != FULL))
    tasks = len(quality["tasks"])
    what = "accuracy, %" if tasks == 1 else f"mean accuracy of {tasks} tasks, %"
    budget = chart(_points(quality, _budgets(quality)), methods, "budget: mean visual tokens per LLM layer", what, True)
    charts = [("Accuracy against budget", budget)]
    if results["cost"]:
        cell = results["cost"][0]
        label = f"milliseconds to the first token, {cell['batch']} at a time"
        charts.append(("Accuracy against time", chart(_points(quality, _times(cell)), methods, label, what, False)))
    figures = "".join(f"<figure><figcaption>{t}</figcaption>{svg}</figure>" for t, svg in charts)
    bars = "bars are 95% intervals, " if tasks == 1 else ""
    return (
        f'<section id="fronts"><h2>Fronts</h2>\n<div class="charts">{figures}</div>\n{_legend(methods)}'
        f'<p class="legend">Up and to the left is better; {bars}the dashed line is the full model, and the pale line '
        "joins the ways that none beats in both. Marks of one budget stand side by side.</p></section>\n"
    )


def _budgets(quality: dict[str, Any]) -> dict[str, float]:
    return {r["way"]: r["budget"] for r in quality["relative"] if r["mean_score"] is not None}


def _times(cell: dict[str, Any]) -> dict[str, float]:
    return {r["way"]: 1e3 * r["seconds"]["first_token"]["median"] for r in cell["rows"] if "seconds" in r}


def _points(quality: dict[str, Any], x: dict[str, float]) -> list[Point]:
    found = []
    for r in quality["relative"]:
        if r["mean_score"] is None or r["way"] not in x:
            continue
        rows = [q for q in quality["rows"] if q["way"] == r["way"]]
        # The interval of a mean over tasks is not the mean of their intervals.
        low, high = rows[0]["interval_95"] if len(rows) == 1 else (None, None)
        y = fmean(q["accuracy"] for q in rows)
        found.append(Point(r["method"], r["keep"], x[r["way"]], y, low, high))
    return found


def chart(points: Sequence[Point], methods: Sequence[str], x_label: str, y_label: str, log: bool) -> str:
    """One chart as SVG, coloured by the page's style."""
    if not points:
        return "<p>Nothing to draw.</p>"
    xs = [p.x for p in points]
    tops = [p.high if p.high is not None else p.y for p in points]
    bottoms = [p.low if p.low is not None else p.y for p in points]
    y_ticks = ticks(100 * min(bottoms), 100 * max(tops))
    x_ticks = log_ticks(min(xs), max(xs)) if log else ticks(min(xs), max(xs))

    room = 1.2 if log else 1.03

    def to_x(v: float) -> float:
        a, b = (math.log(t) if log else t for t in (min(x_ticks[0], *xs) / room, max(x_ticks[-1], *xs) * 1.03))
        return _LEFT + ((math.log(v) if log else v) - a) / (b - a) * (_W - _LEFT - _RIGHT)

    def to_y(v: float) -> float:
        return _H - _BOTTOM - (100 * v - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (_H - _TOP - _BOTTOM)

    out = [f'<svg viewBox="0 0 {_W} {_H}" role="img" aria-label="{esc(y_label)} against {esc(x_label)}">']
    for t in y_ticks:
        y = to_y(t / 100)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_W - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{t:g}</text>')
    for t in x_ticks:
        out.append(f'<text x="{to_x(t):.1f}" y="{_H - _BOTTOM + 18}" text-anchor="middle">{t:g}</text>')
    out.append(f'<text x="{(_LEFT + _W - _RIGHT) / 2}" y="{_H - 8}" text-anchor="middle">{esc(x_label)}</text>')
    out.append(f'<text x="2" y="12">{esc(y_label)}</text>')
    out.append(_front(points, to_x, to_y))
    for p in (p for p in points if p.method == FULL):
        y, x = to_y(p.y), to_x(p.x)
        out.append(f'<line class="whole" x1="{_LEFT}" x2="{x:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<circle class="whole" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{_says(p)}</title></circle>')
    for j, method in enumerate(methods):
        # Side by side where budgets are equal, so that marks and bars do not hide each other; but never far off.
        aside = min(3.5, _ASIDE / len(methods)) * (j - (len(methods) - 1) / 2) if log else 0.0
        shifted = partial(_shifted, to_x, aside)
        out.append(_line([p for p in points if p.method == method], colour(methods, method), shifted, to_y))
    return "".join(out) + "</svg>"


def _shifted(to_x: Any, aside: float, v: float) -> float:
    return float(to_x(v)) + aside


def _front(points: Sequence[Point], to_x: Any, to_y: Any) -> str:
    """The steps through the points that no other beats in both directions."""
    best = -math.inf
    path: list[str] = []
    for p in sorted(points, key=lambda p: (p.x, -p.y)):
        if p.y > best:
            path += ([f"H{to_x(p.x):.1f}", f"V{to_y(p.y):.1f}"]) if path else [f"M{to_x(p.x):.1f} {to_y(p.y):.1f}"]
            best = p.y
    return f'<path class="front" d="{"".join(path)}"/>'


def _line(points: Sequence[Point], name: str, to_x: Any, to_y: Any) -> str:
    ordered = sorted(points, key=lambda p: p.x)
    out = [f'<g class="{name}">']
    if len(ordered) > 1:
        joined = " ".join(f"{to_x(p.x):.1f},{to_y(p.y):.1f}" for p in ordered)
        out.append(f'<polyline points="{joined}"/>')
    for p in ordered:
        x, y = to_x(p.x), to_y(p.y)
        if p.low is not None and p.high is not None:
            out.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{to_y(p.low):.1f}" y2="{to_y(p.high):.1f}"/>')
        out.append(f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{shape(name)}"><title>{_says(p)}')
        out.append("</title></path>")
    return "".join(out) + "</g>"


def _says(p: Point) -> str:
    keep = "" if p.method == FULL else f", keep {esc(p.keep)}"
    return f"{esc(p.method)}{keep}: {100 * p.y:.1f}% at {p.x:,.1f}"


def colour(methods: Sequence[str], method: str) -> str:
    """The style class of a method: b0.. for baselines, m0.. for the others, in their order."""
    same = [m for m in methods if (m in ALWAYS) == (method in ALWAYS)]
    return f"{'b' if method in ALWAYS else 'm'}{same.index(method) % 8}"


def shape(name: str) -> str:
    """The mark of a style class, about 9 units wide."""
    marks = {
        "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
        "square": "M-3.6-3.6h7.2v7.2h-7.2z",
        "triangle": "M0-4.6L4.6 3.6H-4.6z",
        "diamond": "M0-5L5 0L0 5L-5 0z",
        "down": "M0 4.6L4.6-3.6H-4.6z",
        "plus": "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
        "cross": "M-4.2-2.1l2.1-2.1 2.1 2.1 2.1-2.1 2.1 2.1-2.1 2.1 2.1 2.1-2.1 2.1-2.1-2.1-2.1 2.1-2.1-2.1 2.1-2.1z",
        "star": "M0-5.2l1.5 3.6 3.7.3-2.8 2.5.9 3.7L0 2.9l-3.3 2 .9-3.7-2.8-2.5 3.7-.3z",
    }
    return marks[_MARKS[int(name[1:]) % len(_MARKS)]]


def _legend(methods: Sequence[str]) -> str:
    items = []
    for m in methods:
        name = colour(methods, m)
        mark = f'<g class="{name}"><path class="mark" d="{shape(name)}"/></g>'
        mark = f'<svg viewBox="-7 -7 14 14" aria-hidden="true">{mark}</svg>'
        items.append(f"<li>{mark}{esc(m)}</li>")
    return f'<ul class="keys">{"".join(items)}</ul>\n'


def ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers that cover the range."""
    width = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(width))
    step = next(s for s in (step / 5, step / 4, step / 2, step, 2 * step) if width / s <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 10) for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of two that lie inside the range, at most seven."""
    first, last = math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9)
    if first > last:
        return [low]
    step = math.ceil((last - first + 1) / 7)
    return [2.0**i for i in range(first, last + 1, step)]
