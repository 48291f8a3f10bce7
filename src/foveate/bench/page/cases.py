"""The same question to every method, with what each kept of the picture; and where their answers differ."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from foveate import viz
from foveate.bench.asking import grid_of, unmask
from foveate.bench.log import Record
from foveate.bench.page.markup import esc
from foveate.bench.tasks import Task
from foveate.bench.ways import FULL, Way
from foveate.data import Example
from foveate.errors import FoveateError

SHOWN, LISTED = 4, 24
_SIDE = 168


@dataclass(frozen=True)
class Panel:
    """One answer to one question, and what was left of the picture."""

    way: str
    answer: str
    right: bool
    kept: str
    picture: str
    """A data URI, or empty."""


@dataclass(frozen=True)
class Case:
    """One question, answered every way at one keep; the first panel is the full model's."""

    task: str
    id: str
    keep: str
    question: str
    wanted: str
    panels: tuple[Panel, ...]


def draw_cases(tasks: Sequence[Task], ways: Sequence[Way], records: Iterable[Record], processor: Any) -> list[Case]:
    """For each task a few questions on which methods differ most at the middle keep, with pictures.

    Args:
        tasks, ways: of the benchmark.
        records: the log.
        processor: the image processor, which says what of a picture the model sees.
    """
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for r in records:
        if "way" in r:
            found.setdefault((r["task"], r["id"]), {})[r["way"]] = r
    keeps = list(dict.fromkeys(w.keep for w in ways if w.kind != "full"))
    keep = keeps[len(keeps) // 2] if keeps else ""
    chosen = [w for w in ways if w.kind == "full" or w.keep == keep]
    cases = []
    for task in tasks:
        split = {e.id: _split(found.get((task.name, e.id), {}), chosen) for e in task.examples}
        # Stable: of equally split ones the first, so that the same run shows the same pictures.
        for e in sorted(task.examples, key=lambda e: -split[e.id])[:SHOWN]:
            if split[e.id]:
                cases.append(_case(task, e, keep, chosen, found[task.name, e.id], processor))
    return cases


def _split(answers: dict[str, Record], ways: Sequence[Way]) -> int:
    """How evenly right and wrong answers are split; 0 where all agree, or the full model is wrong."""
    if len(answers) < len(ways) or answers.get(FULL, {}).get("score", 0) < 1:
        return 0
    right = sum(answers[w.id]["score"] >= 1 for w in ways if w.id in answers)
    return min(right, len(ways) - right)


def _case(task: Task, e: Example, keep: str, ways: Sequence[Way], answers: dict[str, Record], processor: Any) -> Case:
    try:
        pictures = e.pictures()
    except FoveateError:
        pictures = []
    whole = answers[FULL].get("visual", 0)
    panels = tuple(_panel(w, answers[w.id], pictures, whole, processor) for w in ways if w.id in answers)
    return Case(task.name, e.id, keep, e.question, " / ".join(dict.fromkeys(e.answers)), panels)


def _panel(way: Way, r: Record, pictures: Sequence[Image.Image], whole: int, processor: Any) -> Panel:
    answer, right = r.get("answer") or ("(failed)" if "failed" in r else "(nothing)"), r["score"] >= 1
    kept = f"{r['kept']} of {r['visual']}" if way.plan else f"{r['visual']}" if "visual" in r else ""
    name = "full model" if way.kind == "full" else way.method
    if not pictures:
        return Panel(name, answer, right, kept, "")
    picture = viz.fit(pictures[0], _SIDE)
    # More of them than pictures are tiles, and only of one picture is it known whose.
    if way.plan and (masks := r.get("masks")) and len(pictures) in (1, len(masks)):
        parts = [(grid_of(g), unmask(m)) for g, m in zip(r["grids"], masks, strict=True)]
        grid, left = viz.joined(parts) if len(pictures) == 1 else parts[0]
        picture = viz.dim(pictures[0], viz.place(pictures[0], grid, processor), left, _SIDE)
    elif way.kind == "downsample" and "visual" in r:
        share = (r["visual"] / max(1, whole)) ** 0.5
        small = [max(1, round(v * share)) for v in pictures[0].size]
        picture = pictures[0].resize((small[0], small[1])).resize(picture.size, Image.Resampling.NEAREST)
    return Panel(name, answer, right, kept, uri(picture))


def uri(picture: Image.Image) -> str:
    """A picture inside a page."""
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def section(results: dict[str, Any], cases: Sequence[Case]) -> str:
    """Pictures side by side, then a list of more questions on which methods differ."""
    shown = "".join(_figure(c) for c in cases)
    none = "" if shown else "<p>There is no question that the full model answers right and some way does not.</p>\n"
    return (
        f'<section id="cases"><h2>What stayed, and where methods differ</h2>\n{none}{shown}{_list(results)}</section>\n'
    )


def _figure(case: Case) -> str:
    panels = []
    for p in case.panels:
        image = f'<img src="{p.picture}" alt="what {esc(p.way)} kept" loading="lazy">' if p.picture else ""
        panels.append(
            f"<figure><figcaption>{esc(p.way)} <small>{esc(p.kept)}</small></figcaption>{image}"
            f"<p>{_answer(p.answer, p.right)}</p></figure>"
        )
    return (
        f'<article><h3>{esc(case.question)}</h3><p class="legend">{esc(case.task)}, example {esc(case.id)}; right is '
        f"<b>{esc(case.wanted)}</b>; keep {esc(case.keep)}</p>"
        f'<div class="panels">{"".join(panels)}</div></article>\n'
    )


def _answer(text: str, right: bool) -> str:
    """An answer with a mark that does not depend on colour."""
    sign = "\N{CHECK MARK}" if right else "\N{MULTIPLICATION X}"
    return f'<span class="{"right" if right else "wrong"}">{sign} {esc(text)}</span>'


def _list(results: dict[str, Any]) -> str:
    keeps = list(dict.fromkeys(r["keep"] for r in results["quality"]["rows"] if r["way"] != FULL))
    if not keeps:
        return ""
    keep = keeps[len(keeps) // 2]
    ways = [
        FULL,
        *dict.fromkeys(r["way"] for r in results["quality"]["rows"] if r["keep"] == keep and r["way"] != FULL),
    ]
    rows: list[str] = []
    total = 0
    for name, task in results["samples"].items():
        for i, question in enumerate(task["questions"]):
            answers = [(task["ways"][w]["answers"][i], task["ways"][w]["scores"][i]) for w in ways]
            # Broken examples have no scores at all.
            if any(s is None for _, s in answers) or len({s >= 1 for _, s in answers}) < 2:
                continue
            total += 1
            if len(rows) < LISTED:
                cells = "".join(f"<td>{_answer(a or '(nothing)', s >= 1)}</td>" for a, s in answers)
                asks = f"{esc(question)} <small>{esc(' / '.join(dict.fromkeys(task['right'][i])))}, {esc(name)}</small>"
                rows.append(f'<tr><th scope="row">{asks}</th>{cells}</tr>')
    if not rows:
        return ""
    head = "".join(f"<th scope='col'>{esc(w.split('@')[0])}</th>" for w in ways)
    more = f"the first {len(rows)} of {total:,}" if total > len(rows) else f"all {total:,}"
    return (
        f"<h3>Questions on which the ways differ</h3><p>At keep {esc(keep)}: {more}. The others are in "
        f'<code>results.json</code>.</p><div class="wide" tabindex="0"><table class="answers"><thead><tr>'
        f"<th scope='col'>question</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"
    )
