"""Every method on the embedded model at three budgets, paired over the same questions, with budget and time.

    python benchmarks/catalogue.py [--questions 1000] [--out benchmarks/results/catalogue.json]
    python benchmarks/catalogue.py --table          # what the file holds, as Markdown, and the front as a picture

Held-out test scenes, a question counts as right if greedy decoding would give the whole answer and its end: the true
answer is forced behind the prompt, and each of its tokens has to be the likeliest. Pictures are encoded once and lent
to all plans that do not cut in the encoder. Questions go in chunks, and every method is asked a chunk before any is
asked the next: a run that is stopped has compared all methods on the same questions, and goes on where it was.

`keep` means what a method says it means: for cuts before the LLM the share that stays, inside it a mean over the layers
or the share behind the cut. The budget says what it came to. What cannot meet a keep is written down with the reason.
Time is this process's CPU time of encoding-free forward passes, choosing included, over that of all tokens in the same
chunk.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from foveate import FoveateError, Plan, attach, files
from foveate.bench.statistics import compare, interval
from foveate.engines.hf import load
from foveate.methods import METHODS
from foveate.methods.uniform import uniform
from foveate.search.cases import Batch, Forced, batches, force
from foveate.search.said import Speaker
from foveate.tiny.examples import examples
from instrument import pack, unpack

KEEPS = {"11.1%": 1 / 9, "22.2%": 2 / 9, "5.6%": 1 / 18}
"""The one that tells most apart comes first, for a run that is stopped."""
ALL = "all tokens"
PER_SCENE, BATCH, CHUNK = 4, 20, 100
LEFT_OUT = {
    "sts": "trained for a mean budget of its own; docs/methods/sts.md",
    "vidcom2": "for videos",
    "evs": "for videos",
}
SETTINGS: dict[str, dict[str, Any]] = {"tops": {"transform": "rank"}}


def cells() -> list[tuple[str, str]]:
    """(method, budget), the cheapest to learn from first."""
    return [(ALL, ""), *((m, b) for b in KEEPS for m in METHODS if m not in LEFT_OUT)]


def plan_of(method: str, budget: str, depth: int) -> Plan:
    """The plan of a cell.

    Raises:
        FoveateError: the method cannot meet the budget.
    """
    if method == ALL:
        return uniform(1.0)
    return METHODS[method](keep=KEEPS[budget], **SETTINGS.get(method, {})).at_depth(depth)


@torch.inference_mode()
def ask(model: Any, plan: Plan, batch: Batch, forced: Forced) -> tuple[list[bool], list[float], float]:
    """Right or wrong, mean share of tokens per layer, and CPU seconds, of one batch."""
    length = forced.want_BT.shape[1]
    with attach(model, plan, tail=batch.tail) as attached:
        if attached.encoder_cut is None:
            attached.features = batch.features
        attached.answers_B = forced.lengths_B
        start = time.process_time()
        out = model(**forced.inputs, use_cache=False, logits_to_keep=length + 1)
        seconds = time.process_time() - start
        report = attached.report
    logits_BTV = out.logits[:, -length - 1 : -1]
    right = ((logits_BTV.argmax(-1) == forced.want_BT) | (forced.want_BT < 0)).all(1).tolist()
    share = [fmean(i.per_layer) / i.tokens for i in report.images] if report else [1.0] * len(right)
    return right, share, seconds


def run(args: argparse.Namespace) -> None:
    """Ask what the file does not hold yet, chunk by chunk."""
    engine = load(args.model)
    depth = len(engine.model.model.language_model.layers)
    data: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"cells": {}}
    speaker = Speaker(engine, 32)
    pad = engine.processor.tokenizer.pad_token_id or 0
    for number in range(args.questions // CHUNK):
        scenes = range(number * CHUNK // PER_SCENE, (number + 1) * CHUNK // PER_SCENE)
        todo = [c for c in cells() if len(data["cells"].get("@".join(c), {}).get("right", [])) <= number]
        if not todo:
            continue
        asked = batches(engine, examples(scenes, "test", PER_SCENE), BATCH)
        forced = [force(b, [speaker.tokens(e) for e in b.examples], pad) for b in asked]
        for method, budget in todo:
            cell = data["cells"].setdefault("@".join((method, budget)), {"right": [], "budget": [], "seconds": []})
            if "refused" in cell:
                continue
            right = [False] * CHUNK
            shares, seconds = [], 0.0
            try:
                plan = plan_of(method, budget, depth)
                for batch, answer in zip(asked, forced, strict=True):
                    hits, share, took = ask(engine.model, plan, batch, answer)
                    for place, hit in zip(batch.numbers, hits, strict=True):
                        right[place] = hit
                    shares += share
                    seconds += took
            except FoveateError as e:
                data["cells"]["@".join((method, budget))] = {"refused": str(e)}
            else:
                cell["right"].append(pack(right))
                cell["budget"].append(fmean(shares))
                cell["seconds"].append(seconds)
            files.write(args.out, (json.dumps(data, indent=1) + "\n").encode())


def rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known of each cell, over the questions that every cell was asked."""
    known = {c: v for c, v in data["cells"].items() if "refused" not in v}
    chunks = min(len(v["right"]) for v in known.values())
    hits = {c: [h for x in v["right"][:chunks] for h in unpack(x, CHUNK)] for c, v in known.items()}
    whole = hits[f"{ALL}@"]
    base = known[f"{ALL}@"]
    out = []
    for c, v in known.items():
        method, _, budget = c.rpartition("@")
        scores = [float(h) for h in hits[c]]
        paired = compare([float(h) for h in whole], scores)
        time_ratio = sum(v["seconds"][:chunks]) / sum(base["seconds"][:chunks])
        low, high = paired.low, paired.high
        out.append(
            {
                "method": method,
                "keep": budget,
                "questions": len(scores),
                "right": fmean(scores),
                "interval": interval(scores),
                "lost": paired.difference,
                "lost_interval": (low, high),
                "budget": fmean(v["budget"][:chunks]),
                "time": time_ratio,
            }
        )
    return out


def front(found: list[dict[str, Any]], axis: str) -> set[tuple[str, str]]:
    """Cells that no other beats in both accuracy and the axis."""
    best, out = -1.0, set()
    for r in sorted(found, key=lambda r: (r[axis], -r["right"])):
        if r["right"] > best:
            best = r["right"]
            out.add((r["method"], r["keep"]))
    return out


def table(data: dict[str, Any], picture: Path) -> str:
    """The results as Markdown; draws the front of accuracy against time."""
    found = rows(data)
    fast = front(found, "time")
    lines = [f"{found[0]['questions']} questions; intervals are 95 %.", ""]
    for keep in ["", *sorted(KEEPS, key=lambda k: -KEEPS[k])]:
        here = sorted((r for r in found if r["keep"] == keep), key=lambda r: -r["right"])
        if keep:
            lines += ["", f"keep = {keep}", ""]
        lines += [
            "| method | right | lost against all tokens | budget | time | on the front |",
            "|---|---|---|---|---|---|",
        ]
        for r in here:
            low, high = r["interval"]
            lost = f"{100 * r['lost']:.1f} [{100 * r['lost_interval'][0]:.1f}, {100 * r['lost_interval'][1]:.1f}]"
            lines.append(
                f"| `{r['method']}` | {100 * r['right']:.1f} [{100 * low:.1f}, {100 * high:.1f}] | {lost} | "
                f"{100 * r['budget']:.1f} % | {r['time']:.2f} | {'yes' if (r['method'], r['keep']) in fast else ''} |"
            )
    refused = {c: v["refused"] for c, v in data["cells"].items() if "refused" in v}
    if refused:
        lines += ["", "Not possible:", "", *(f"- `{c}`: {why}" for c, why in refused.items())]
    draw(found, fast, picture)
    return "\n".join(lines) + "\n"


def draw(found: list[dict[str, Any]], fast: set[tuple[str, str]], path: Path) -> None:
    """Accuracy against time; the front is a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5))
    for keep in sorted(KEEPS, key=lambda k: -KEEPS[k]):
        here = [r for r in found if r["keep"] == keep]
        axes.scatter([r["time"] for r in here], [100 * r["right"] for r in here], s=16, label=keep)
    line = sorted((r for r in found if (r["method"], r["keep"]) in fast), key=lambda r: r["time"])
    axes.plot([r["time"] for r in line], [100 * r["right"] for r in line], color="black", linewidth=0.8)
    for r in line:
        axes.annotate(
            r["method"], (r["time"], 100 * r["right"]), fontsize=7, xytext=(3, -8), textcoords="offset points"
        )
    axes.set(xlabel="time of a forward pass, all tokens = 1", ylabel="right, %")
    axes.legend(title="keep")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "catalogue.json")
    parser.add_argument("--table", action="store_true", help="print what the file holds, and draw the front")
    parser.add_argument("--picture", type=Path, default=Path("docs/methods/catalogue-front.png"))
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.out.read_text()), args.picture), end="")
    else:
        run(args)


if __name__ == "__main__":
    main()
