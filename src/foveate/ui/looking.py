"""One question about one picture, asked with all tokens and by each method: what the page's first tab shows."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from foveate import viz
from foveate.bench.shape import prefill_flops
from foveate.engines import hf
from foveate.engines.answer import Answer
from foveate.errors import FoveateError
from foveate.methods import registry
from foveate.plan import Plan

COLUMNS = ("method", "answer", "tokens", "ms", "work, %")
_COLUMNS = 4
"""Panels in a row: what a telephone can show."""
LEGEND = (
    "Tokens: visual ones, mean over the layers. Ms: to the first token, after a warm-up; one run. "
    "Work: operations of the prefill, of those with all tokens."
)


@dataclass(frozen=True)
class Looked:
    """One method's answer.

    Args:
        row: the cells under COLUMNS.
        picture: what stayed at each cut; None with all tokens.
    """

    row: tuple[str, str, str, str, str]
    picture: Image.Image | None


def look(
    engine: hf.Engine,
    picture: Image.Image | None,
    question: str,
    methods: Sequence[str],
    keep: float,
    longest: int = 32,
) -> Iterator[Looked]:
    """Asks with all tokens, then by each method, one after another; a method that cannot says why in its row.

    Raises:
        FoveateError: no picture, no question or no method.
    """
    if picture is None:
        raise FoveateError("there is no picture; drop one in")
    if not question.strip():
        raise FoveateError("there is no question; ask something")
    if not methods:
        raise FoveateError("no method is chosen; tick one")
    hf.ask(engine, [picture], question, None, 1)
    whole = hf.ask(engine, [picture], question, None, longest)
    full = _operations(engine, whole)
    yield Looked(_row("all tokens", whole, full, full), None)
    for name in methods:
        try:
            chosen = plan(engine, name, keep)
            hf.ask(
                engine, [picture], question, chosen, 1
            )  # what is compiled or allocated once is not the method's time
            answer = hf.ask(engine, [picture], question, chosen, longest)
        except FoveateError as e:
            yield Looked((name, str(e), "", "", ""), None)
            continue
        assert answer.report is not None
        drawn = viz.overlay(
            [picture], answer.report, engine.processor.image_processor, f"{name}: {answer.text}", _COLUMNS
        )
        yield Looked(_row(name, answer, _operations(engine, answer), full), drawn)


def stacked(pictures: Sequence[Image.Image]) -> Image.Image | None:
    """Pictures one below the other, on white; None where there are none."""
    if not pictures:
        return None
    page = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page


def table(rows: Sequence[Sequence[str]]) -> str:
    """The rows under COLUMNS, as HTML; where it is wider than the page it scrolls by itself."""
    line = lambda tag, cells: "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)  # noqa: E731
    body = "".join(f"<tr>{line('td', r)}</tr>" for r in rows)
    return f'<div class="answers"><table><tr>{line("th", COLUMNS)}</tr>{body}</table></div>'


def plan(engine: hf.Engine, name: str, keep: float) -> Plan:
    """The method's plan for this model."""
    depth = {"depth": engine.facts.depth} if "depth" in registry.parameters(name) else {}
    return registry.method(name, keep=keep, **depth)


def _operations(engine: hf.Engine, answer: Answer) -> float | None:
    return prefill_flops(engine.model, [answer.prompt_tokens], answer.visual_tokens, answer.report, engine.facts.depth)


def _row(name: str, answer: Answer, operations: float | None, full: float | None) -> tuple[str, str, str, str, str]:
    budget = sum(i.budget for i in answer.report.images) if answer.report else answer.visual_tokens
    share = f"{100 * operations / full:.1f}" if operations and full else ""
    return name, answer.text, f"{budget:.1f}", f"{1e3 * answer.times.first_token:.0f}", share


def names(engine: Any) -> list[str]:
    """The methods that can be made for this model without further settings."""
    found = []
    for name in registry.names():
        try:
            plan(engine, name, 0.25)
            found.append(name)
        except FoveateError:
            continue
    return found
