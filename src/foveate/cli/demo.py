"""`foveate demo`: eight pictures, a few methods, the embedded model; what it answers with how many tokens, and when."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import typer
from PIL import Image
from rich.text import Text

from foveate.cli import app, choose, show
from foveate.errors import FoveateError

# [CLS] attention has a heavy tail here, for which TOPS wants the rank transform: see the docstring of methods/tops.py.
_METHODS: Mapping[str, Mapping[str, Any]] = {
    "random": {},
    "divprune": {},
    "fastervlm": {},
    "fastv": {},
    "tops": {"transform": "rank"},
}
_KEEPS = ("0.222", "0.056")
_PARTS = ("encode", "select", "prefill", "first_token")
_LONGEST = 8
"""Tokens; right answers are one word."""
_EXAMPLES = """
[bold]Example[/bold]

  foveate demo --out out/demo

It takes well under two minutes on one CPU core, and needs no network.
"""


@dataclass
class _Series:
    """The answers of one method at one keep, a sample each."""

    name: str
    keep: str
    plan: Any
    answers: list[Any] = field(default_factory=list)

    def right(self, asked: Sequence[Any]) -> int:
        return sum(a.text == s.answer for a, s in zip(self.answers, asked, strict=True))

    @property
    def budget(self) -> float:
        return fmean(a.report.budget if a.report else a.visual_tokens for a in self.answers)

    def seconds(self, part: str) -> float:
        return median(getattr(a.times, part) for a in self.answers)


@app.command(epilog=_EXAMPLES)
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the picture and the numbers go.")] = Path("out/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Ask the model that comes with the package about its sample pictures, with fewer and fewer visual tokens."""
    from foveate import files, images, samples, viz
    from foveate.engines import hf

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FoveateError(f"cannot make the folder {out}: {e.strerror}; name another with --out") from None
    begin = time.perf_counter()
    show.quiet()
    engine = hf.load()
    asked = samples.load()
    pictures = [images.load(s.image) for s in asked]
    depth = engine.facts.depth
    series = [_Series("all tokens", "1.0", None)]
    series += [
        _Series(name, keep, choose.build(name, keep, v, depth)) for name, v in _METHODS.items() for keep in _KEEPS
    ]
    for s in series:
        hf.ask(engine, [pictures[0]], asked[0].question, s.plan, _LONGEST)  # warm-up, not counted
    for picture, sample in zip(pictures, asked, strict=True):
        # Every way of answering in turn, so that a machine that slows down slows down all of them.
        for s in series:
            s.answers.append(hf.ask(engine, [picture], sample.question, s.plan, _LONGEST))

    drawing, numbers = out / "demo.png", out / "demo.json"
    viz.save(_sheet(pictures, asked, series), drawing)
    data = {
        "model": hf.TINY,
        "samples": [{"image": s.image.name, "question": s.question, "answer": s.answer} for s in asked],
        "series": [_data(s, asked) for s in series],
        "seconds": time.perf_counter() - begin,
        "picture": str(drawing),
    }
    files.write(numbers, (json.dumps(data, indent=2) + "\n").encode())
    if as_json:
        show.as_json(data)
        return
    _print(asked, series)
    show.console().print(f"\nPicture: {drawing}\nNumbers: {numbers}\n[dim]{data['seconds']:.0f} s[/dim]")


def _data(s: _Series, asked: Sequence[Any]) -> dict[str, Any]:
    return {
        "method": s.name,
        "settings": dict(_METHODS.get(s.name, {})),
        "keep": float(s.keep),
        "budget": s.budget,
        "right": s.right(asked),
        "of": len(asked),
        "answers": [a.text for a in s.answers],
        "median_seconds": {p: s.seconds(p) for p in (*_PARTS, "decode", "total")},
    }


def _print(asked: Sequence[Any], series: Sequence[_Series]) -> None:
    page = show.console()
    plain = series[0]
    page.print(
        f"\n[bold]{len(asked)} questions to the embedded model, {plain.budget:.0f} visual tokens a picture[/bold]"
    )
    answers = show.table("method", "keep", "budget", "right", "answers")
    answers.columns[-1].justify, answers.columns[-1].no_wrap = "left", False
    times = show.table("ms, median", "keep", "encode", "select", "prefill", "gain", "first token", "gain")
    for s in series:
        if s.keep == _KEEPS[0]:
            answers.add_section()
            times.add_section()
        answers.add_row(s.name, s.keep, f"{s.budget:.1f}", f"{s.right(asked)} of {len(asked)}", _answers(s, asked))
        encode, select, prefill, first = (f"{s.seconds(p) * 1e3:.1f}" for p in _PARTS)
        gains = [show.times(plain.seconds(p) / s.seconds(p)) if s.plan else "" for p in _PARTS[2:]]
        times.add_row(s.name, s.keep, encode, select, prefill, gains[0], first, gains[1])
    page.print(answers)
    page.print(
        "[dim]Budget: mean visual tokens per LLM layer. Red: wrong. Eight questions show how, not how well.[/dim]"
    )
    page.print()
    page.print(times)
    page.print(
        "[dim]Times of a model of 7 million parameters on this machine; they say nothing about large ones.[/dim]"
    )


def _answers(s: _Series, asked: Sequence[Any]) -> Text:
    line = Text()
    for answer, sample in zip(s.answers, asked, strict=True):
        line.append(f"{answer.text or '(nothing)'} ", style="green" if answer.text == sample.answer else "red")
    return line


def _sheet(pictures: Sequence[Image.Image], asked: Sequence[Any], series: Sequence[_Series]) -> Image.Image:
    """A row a sample: the picture, then what each method left at the lowest keep."""
    from foveate import viz

    green, red = (22, 128, 60), (196, 40, 40)
    rows = []
    for i, (picture, sample) in enumerate(zip(pictures, asked, strict=True)):
        row = []
        for s in (s for s in series if s.plan is None or s.keep == _KEEPS[-1]):
            answer = s.answers[i]
            colour = green if answer.text == sample.answer else red
            text = answer.text or "(nothing)"
            if answer.report is None:
                whole = f"all {answer.visual_tokens} tokens: {text}"
                row.append(viz.Panel(viz.fit(picture, 224), sample.question, whole, colour))
                continue
            image = answer.report.images[0]
            last = image.cuts[-1]
            title = f"{s.name}, {last.count} left {viz.where(last.at)}"
            row.append(viz.Panel(viz.dim(picture, viz.place(picture, image.grid), last.kept, 224), title, text, colour))
        rows.append(row)
    return viz.sheet(rows, f"What stays at keep {_KEEPS[-1]}, and what the model answers")
