"""Accuracy with intervals, paired comparisons, fidelity; the budget always beside the stated keep."""

from typing import Any

from foveate.bench.page.markup import NONE, by_keep, count, esc, group, p_value, percent, points, row, span, table
from foveate.bench.ways import FULL

_HEAD = ("method", "tokens left", "budget", "accuracy, %", "against full", "p", "against {}", "p", "agree, %", "KL")
_SURE = 0.05


def section(results: dict[str, Any]) -> str:
    """The quality of every way on every task, and over all tasks together."""
    quality, baseline = results["quality"], results["config"]["baseline"]
    parts = ['<section id="quality"><h2>Quality</h2>\n']
    for task in quality["tasks"]:
        rows = [r for r in quality["rows"] if r["task"] == task["name"]]
        parts.append(f"<h3>{esc(task['name'])}</h3>\n{_about(task)}{_table(rows, baseline)}")
    parts.append(_legend(baseline))
    parts.append(_relative(quality["relative"], len(quality["tasks"])))
    return "".join(parts) + "</section>\n"


def _about(task: dict[str, Any]) -> str:
    n, broken = task["examples"], len(task["broken"])
    text = f"{n:,} questions, {esc(task['metric'])}."
    if task["pictures"] < n:
        text += f" They share {task['pictures']:,} pictures, so intervals are narrower than they should be."
    if broken:
        text += f" <strong>{broken:,} could not be asked</strong> and count nowhere (<a href='#broken'>which</a>)."
    if task["note"]:
        text += f" {esc(task['note'])}"
    return f"<p>{text}</p>\n"


def _table(rows: list[dict[str, Any]], baseline: str) -> str:
    head = [esc(h.format(baseline)) for h in _HEAD]
    full = [r for r in rows if r["way"] == FULL]
    bodies = [f"<tbody>{''.join(_row(r) for r in full)}</tbody>"]
    for keep, found in by_keep(r for r in rows if r["way"] != FULL).items():
        bodies.append(group(f"keep {esc(keep)}", [_row(r) for r in found], len(head)))
    return table(head, bodies)


def _row(r: dict[str, Any]) -> str:
    name = esc(r["method"])
    if r["accuracy"] is None:
        why = f'<td colspan="{len(_HEAD) - 1}" class="why">not possible: {esc(r["why"])}</td>'
        return f'<tr><th scope="row">{name}</th>{why}</tr>'
    if r["failed"]:
        name += f' <small title="{esc(r["why"])}">({r["failed"]} failed, scored 0)</small>'
    accuracy = f"<b>{percent(r['accuracy'])}</b> {span(*r['interval_95'])}"
    budget = f"{count(r['budget'])} <small>{percent(r['budget_fraction'])}%</small>"
    kl = r.get("kl_mean")
    cells = [
        count(r["kept"]), budget, accuracy, *_against(r.get("vs_full")), *_against(r.get("vs_baseline")),
        percent(r.get("agreement")), NONE if kl is None else f"{kl:.3f}",
    ]  # fmt: skip
    return row(name, cells, "full" if r["way"] == FULL else "")


def _against(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [NONE, NONE]
    sure = found["p_holm"] < _SURE
    kind = ("down" if found["difference"] < 0 else "up") if sure else "open"
    mark = "\N{ASTERISK}" if sure else ""
    title = f"{found['better']} questions better, {found['worse']} worse; uncorrected p {found['p']:.3g}"
    difference = f'<span class="{kind}" title="{title}">{points(found["difference"])}{mark}</span>'
    low, high = points(found["low"]), points(found["high"])
    return [f"{difference} <small>{low} to {high}</small>", p_value(found["p_holm"])]


def _legend(baseline: str) -> str:
    return (
        '<p class="legend"><b>Keep</b> is what was asked for; <b>tokens left</b> counts the last layer; <b>budget</b> '
        "is the mean number of visual tokens per LLM layer, by which plans with one cut and with many compare. Small "
        "figures are 95% intervals. <b>Against</b> is a paired difference in points over the same questions, with the "
        f"full model and with {esc(baseline)} at the same keep; <b>p</b> is the exact McNemar test (for partial "
        "credit, the paired bootstrap), corrected by Holm over all comparisons of that column; an asterisk: p "
        "below 0.05. <b>Agree</b>: answers equal to the full model's. <b>KL</b>: from the full model's distribution of "
        "the first answer token to this one's, in nats, mean.</p>\n"
    )


def _relative(relative: list[dict[str, Any]], tasks: int) -> str:
    head = ("method", "budget", "mean of ratios, %", "ratio of means, %", "mean score, %", "worst task, %")
    bodies = []
    for keep, found in by_keep(r for r in relative if r["way"] != FULL).items():
        rows = []
        for r in found:
            if r["mean_score"] is None:
                rows.append(row(esc(r["method"]), [NONE] * (len(head) - 1)))
                continue
            worst = r["worst"]
            cells = [
                count(r["budget"]),
                *(percent(r[k]) for k in ("mean_of_ratios", "ratio_of_means", "mean_score")),
                NONE if worst is None else f"{percent(worst['ratio'])} <small>{esc(worst['task'])}</small>",
            ]
            rows.append(row(esc(r["method"]), cells))
        bodies.append(group(f"keep {esc(keep)}", rows, len(head)))
    body = table(head, bodies)
    if tasks == 1:
        why = "with one task, the first two are the same"
        return f"<details><summary>Relative accuracy <small>{why}</small></summary>\n{body}</details>\n"
    return f"<h3>Relative accuracy</h3>\n<p>Papers mean three different things by it; here are all.</p>\n{body}"
