"""From the log to figures: accuracy with intervals, paired comparisons with their correction, fidelity, budget.

"Relative accuracy" has three definitions in the papers, and they differ by points: the mean over tasks of way / full
(`mean_of_ratios`), the mean accuracy of the way over that of the full model (`ratio_of_means`), and the plain mean
accuracy (`mean_score`). All three are given, and the worst task. Scores here lie in 0..1 on every task, so no task has
to be divided by its maximum first, as MME is.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from foveate.bench.log import Record
from foveate.bench.statistics import binary, compare, holm, interval, wilson
from foveate.bench.tasks import Task
from foveate.bench.ways import FULL, Way

Answers = Mapping[str, Record]
"""Example id to its record, in the order of the task."""


def figures(tasks: Sequence[Task], ways: Sequence[Way], records: Iterable[Record], baseline: str) -> dict[str, Any]:
    """All quality figures as plain data.

    Args:
        tasks: whose examples were asked.
        ways: the full model first.
        records: the log.
        baseline: the method that others are compared with, beside the full model, at the same keep.
    """
    table: dict[str, dict[str, dict[str, Record]]] = {t.name: {w.id: {} for w in ways} for t in tasks}
    broken: dict[str, dict[str, str]] = {t.name: {} for t in tasks}
    for r in records:
        if r["task"] not in table:
            continue
        if "broken" in r:
            broken[r["task"]][r["id"]] = r["broken"]
        elif r["way"] in table[r["task"]]:
            table[r["task"]][r["way"]][r["id"]] = r
    rows = []
    for t in tasks:
        order = [e.id for e in t.examples if e.id not in broken[t.name]]
        sorted_ways = {w: {i: found[i] for i in order if i in found} for w, found in table[t.name].items()}
        rows += [_row(t, w, sorted_ways, baseline) for w in ways]
    _correct(rows)
    return {
        "tasks": [_about(t, broken[t.name]) for t in tasks],
        "rows": rows,
        "relative": [_relative(w, [r for r in rows if r["way"] == w.id], rows) for w in ways],
    }


def _about(task: Task, broken: Mapping[str, str]) -> dict[str, Any]:
    pictures = {repr(e.images) if e.images else e.id for e in task.examples}
    return {
        "name": task.name,
        "metric": task.metric,
        "examples": len(task.examples),
        "pictures": len(pictures),
        "broken": [{"id": i, "why": why} for i, why in broken.items()],
        "note": task.note,
    }


def _row(task: Task, way: Way, answers: Mapping[str, Answers], baseline: str) -> dict[str, Any]:
    mine, full = answers[way.id], answers[FULL]
    failed = [r["failed"] for r in mine.values() if "failed" in r]
    row: dict[str, Any] = {
        "task": task.name, "way": way.id, "method": way.method, "keep": way.keep, "n": len(mine), "failed": len(failed),
        "why": failed[0] if failed else None, "accuracy": None,
    }  # fmt: skip
    if len(failed) == len(mine):
        return row
    scores = [r["score"] for r in mine.values()]
    said = [r for r in mine.values() if "failed" not in r]
    # Of the same examples: a way that fails may fail on the largest.
    shares = [
        (r["budget"], full[i]["visual"]) for i, r in mine.items() if "budget" in r and "visual" in full.get(i, {})
    ]
    left, whole = map(sum, zip(*shares, strict=True)) if shares else (0, 0)
    row |= {
        "accuracy": fmean(scores),
        "interval_95": list(interval(scores)),
        "binary": binary(scores),
        "visual": fmean(r["visual"] for r in said),
        "kept": fmean(r["kept"] for r in said),
        "budget": fmean(r["budget"] for r in said),
        "budget_fraction": (left / whole if whole else 1.0) if shares else None,
    }
    if way.id == FULL:
        return row
    both = [i for i in mine if i in full and "failed" not in full[i]]
    if both:
        same = sum(mine[i].get("answer") == full[i]["answer"] for i in both)
        kl = [r["kl"] for r in said if "kl" in r]
        row |= {
            "agreement": same / len(both),
            "agreement_95": list(wilson(same, len(both))),
            "kl_mean": fmean(kl) if kl else None,
            "kl_median": median(kl) if kl else None,
            "vs_full": _against(mine, full),
        }
    other = answers.get(f"{baseline}@{way.keep}")
    if other and way.method != baseline and any("failed" not in r for r in other.values()):
        row["vs_baseline"] = _against(mine, other)
    return row


def _against(mine: Answers, other: Answers) -> dict[str, Any]:
    ids = [i for i in mine if i in other]
    return compare([mine[i]["score"] for i in ids], [other[i]["score"] for i in ids]).to_dict()


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's correction, over all comparisons with the same reference in all tasks together."""
    for reference in ("vs_full", "vs_baseline"):
        found = [r[reference] for r in rows if reference in r]
        for each, p in zip(found, holm([f["p"] for f in found]), strict=True):
            each["p_holm"] = p


def _relative(way: Way, mine: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    full = {r["task"]: r["accuracy"] for r in rows if r["way"] == FULL}
    done = [r for r in mine if r["accuracy"] is not None and full[r["task"]] is not None]
    out: dict[str, Any] = {"way": way.id, "method": way.method, "keep": way.keep, "tasks": len(done)}
    if len(done) < len(mine) or not done:
        return out | dict.fromkeys(("mean_of_ratios", "ratio_of_means", "mean_score", "worst"))
    ratios = {r["task"]: r["accuracy"] / full[r["task"]] for r in done if full[r["task"]]}
    whole = fmean(full[r["task"]] for r in done)
    score = fmean(r["accuracy"] for r in done)
    worst = min(ratios, key=lambda t: ratios[t]) if ratios else None
    return out | {
        "mean_of_ratios": fmean(ratios.values()) if len(ratios) == len(done) else None,
        "ratio_of_means": score / whole if whole else None,
        "mean_score": score,
        "worst": None if worst is None else {"task": worst, "ratio": ratios[worst]},
        "budget": fmean(r["budget"] for r in done),
    }
