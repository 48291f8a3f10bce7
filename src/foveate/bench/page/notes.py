"""What stands at the top and at the bottom: what was measured on what, how, and what went wrong."""

import json
from typing import Any

from foveate.bench.page.markup import esc
from foveate.bench.ways import FULL


def head(results: dict[str, Any]) -> str:
    """Title, the facts, and one sentence of orientation."""
    model, machine = results["environment"]["model"], results["environment"]["hardware"]
    quality = results["quality"]
    full = [r for r in quality["rows"] if r["way"] == FULL]
    scores = ", ".join(f"{100 * r['accuracy']:.1f}% on {esc(r['task'])}" for r in full if r["accuracy"] is not None)
    facts = {
        "model": f"{model['name']} ({model['type']}, {model['layers']} layers, {model['parameters'] / 1e6:,.1f} M)",
        "device": machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} thread(s)",
        "kernel": f"{model['attention']}, {model['dtype']}",
        "commit": results["environment"]["commit"] or "unknown",
        "finished": results["finished"].replace("T", " ").removesuffix("+00:00") + " UTC",
    }
    items = "".join(f"<div><dt>{esc(k)}</dt><dd>{esc(v)}</dd></div>" for k, v in facts.items())
    methods = len({r["method"] for r in quality["rows"]}) - 1
    return (
        '<header><p class="brand">Foveate benchmark</p>\n'
        f"<h1>{esc(model['name'])} with fewer visual tokens</h1>\n"
        f'<p class="lead">{methods} ways of dropping tokens, measured on the same model, questions and kernel. '
        f"With all its tokens the model scores {scores}.</p>\n"
        f"<dl class='facts'>{items}</dl>\n"
        '<nav><a href="#quality">Quality</a> <a href="#fronts">Fronts</a> <a href="#cost">Cost</a> '
        '<a href="#cases">Pictures</a> <a href="#how">How</a></nav></header>\n'
    )


def foot(results: dict[str, Any]) -> str:
    """What could not be asked, how it was measured, and the whole configuration."""
    lines = [
        f"<li><code>{esc(t['name'])}</code> {esc(b['id'])}: {esc(b['why'])}</li>"
        for t in results["quality"]["tasks"]
        for b in t["broken"]
    ]
    broken = f'<h3 id="broken">Examples that could not be asked</h3><ul>{"".join(lines)}</ul>\n' if lines else ""
    shown = {"config": results["config"], "environment": results["environment"]}
    config = esc(json.dumps(shown, indent=1, ensure_ascii=False))
    return (
        f'<section id="how"><h2>How it was measured</h2>\n{broken}'
        "<ul>\n"
        "<li>Answers are greedy. Every way answers every question; examples that could not be asked are listed, never "
        "dropped in silence.</li>\n"
        "<li>random, uniform, pool and downsample are in every table. downsample drops nothing: it shows the model a "
        "smaller picture with about as many tokens.</li>\n"
        "<li>Times are of whole calls on warm models, all ways in turn within each repeat, choosing tokens included; "
        "preparing pictures is not. Spread is the interquartile range.</li>\n"
        "<li>The oracle is the plain model given a prompt that never had the dropped tokens; efficiency is its time "
        "over the method's. For plans that cut inside the decoder it has as many tokens as their budget.</li>\n"
        "<li>Intervals take questions as independent.</li>\n"
        "</ul>\n"
        f"<details><summary>Configuration and environment</summary><pre>{config}</pre></details></section>\n"
    )
