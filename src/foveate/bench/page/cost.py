"""Where the time goes: encode, select, prefill and decode apart, against the full model and against the oracle."""

from typing import Any

from foveate.bench.page.markup import NONE, by_keep, count, esc, flops, group, ms, row, size, table, times
from foveate.bench.ways import FULL

_PARTS = ("encode", "select", "prefill", "decode", "first_token", "total")


def section(results: dict[str, Any]) -> str:
    """One pair of tables for each batch size and answer length."""
    if not results["cost"]:
        return '<section id="cost"><h2>Cost</h2><p>Not measured (<code>--no-cost</code>).</p></section>\n'
    parts = ['<section id="cost"><h2>Cost</h2>\n']
    for cell in results["cost"]:
        one = "prompt" if cell["batch"] == 1 else "prompts"
        answer = "1 token" if cell["length"] == 1 else f"{cell['length']} tokens"
        open_ = " open" if cell is results["cost"][0] else ""
        parts.append(
            f"<details{open_}><summary>{cell['batch']} {one} at a time, answers of {answer} "
            f"<small>{cell['visual']:,} visual tokens, medians of {cell['repeats']}</small></summary>\n"
            f"{_table(cell)}</details>\n"
        )
    return "".join(parts) + _legend(results) + "</section>\n"


def _table(cell: dict[str, Any]) -> str:
    head = (
        "method", "encode", "select", "prefill", "decode", "first token, ms", "all, ms", "first token", "all",
        "efficiency", "breaks even at", "KV cache", "prefill FLOPs", "peak memory",
    )  # fmt: skip
    rows = cell["rows"]
    bodies = [f"<tbody>{''.join(_row(r, len(head)) for r in rows if r['way'] == FULL)}</tbody>"]
    for keep, found in by_keep(r for r in rows if r["way"] != FULL).items():
        bodies.append(group(f"keep {esc(keep)}", [_row(r, len(head)) for r in found], len(head)))
    return table(head, bodies)


def _row(r: dict[str, Any], columns: int) -> str:
    name = esc(r["method"])
    if "failed" in r:
        why = f'<td colspan="{columns - 1}" class="why">not possible: {esc(r["failed"])}</td>'
        return f'<tr><th scope="row">{name}</th>{why}</tr>'
    seconds, full = r["seconds"], r["way"] == FULL
    parts = [_time(seconds[p], p in ("first_token", "total")) for p in _PARTS]
    if full:
        parts[1] = NONE
    efficiency, even = r.get("efficiency"), r.get("break_even")
    floor = r.get("oracle")
    title = "" if floor is None else f"oracle of equal {floor['equal']}: {floor['visual']} visual tokens"
    cells = [
        *parts,
        *([NONE, NONE] if full else [_ratio(r["speedup"][p]) for p in ("first_token", "total")]),
        NONE if efficiency is None else f'<span title="{title}">{_ratio(efficiency["total"], "")}</span>',
        NONE if even is None else f"{count(round(even['visual']))} <small>tokens</small>",
        size(r["kv_bytes"]),
        flops(r["prefill_flops"]),
        size(seconds["peak_bytes"]),
    ]
    return row(name, cells, "full" if full else "")


def _time(x: dict[str, float], spread: bool) -> str:
    return ms(x["median"]) + (f" <small>{ms(x['low'])}\N{EN DASH}{ms(x['high'])}</small>" if spread else "")


def _ratio(x: dict[str, float], unit: str = "\N{MULTIPLICATION SIGN}") -> str:
    return f"<b>{x['median']:.2f}{unit}</b> <small>{x['low']:.2f}\N{EN DASH}{x['high']:.2f}</small>"


def _legend(results: dict[str, Any]) -> str:
    gpu = "gpu" in results["environment"]["hardware"]
    memory = "what PyTorch allocated at most" if gpu else "not measured on a CPU"
    return (
        '<p class="legend">Parts are milliseconds. The first two ratios are full over method: above '
        f"{times(1)} is a gain. <b>Efficiency</b> is the oracle's time over the method's, whole answers: 1 is all that "
        "dropping them can give. <b>Breaks even at</b>: with fewer visual tokens a prompt is answered sooner by "
        "the full model (prefill taken as linear). <b>KV cache</b> after prefill, padding counted; <b>FLOPs</b> of the "
        f"decoder for one prompt; <b>peak memory</b>: {memory}. Small figures are quartiles.</p>\n"
    )
