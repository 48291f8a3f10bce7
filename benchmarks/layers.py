"""The premises of G-Search on the instrument: are layers' rankings alike, and does the essential count fall with depth?

    python benchmarks/layers.py [--questions 320] [--out benchmarks/results] [--work out/layers]

- Kendall's tau between the rankings of every pair of decoder layers, all visual tokens, mean over the questions, for
  the attention of the last prompt token and of the question's words.
- For one cut before each layer, nothing else dropped: the loss at every count of a grid, and the fewest tokens whose
  loss is within the tolerance. Evaluations are kept in a study in --work: a killed run goes on.
"""

import argparse
import json
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import kendalltau

from foveate import Attention, Cut, Plan, files
from foveate.engines import hf
from foveate.engines.score import prepare_examples
from foveate.hf.families import family
from foveate.hf.taps import text_attention
from foveate.methods.fastv import TextAttention
from foveate.search.halves import Split
from foveate.search.promise import error
from foveate.search.session import Session
from foveate.search.study import Study
from foveate.tiny.examples import examples

GRID = (0, 2, 4, 8, 16, 32, 64, 128, 256)
RANKINGS = (("own", "text"), ("own", "last"), ("previous", "last"))


def attentions(engine, example) -> dict[str, torch.Tensor]:
    """Rater -> layers x visual tokens: head-mean attention in every layer of the full model."""
    model = engine.model
    prompt = prepare_examples(engine, [example])
    ids = prompt.inputs["input_ids"]
    visual = ids[0] == model.config.image_token_id
    last = torch.zeros_like(ids, dtype=torch.bool)
    last[0, -1] = True
    words = torch.zeros_like(last)
    words[0, int(visual.nonzero()[-1]) + 1 : ids.shape[1] - prompt.tail] = True
    found: dict[str, list] = {"last": [], "text": []}

    def hook(layer, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        cos, sin = kwargs["position_embeddings"]
        for name, raters in (("last", last), ("text", words)):
            share = text_attention(layer, hidden, cos, sin, raters, torch.ones_like(last), None)
            found[name].append(share[0, visual])

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in family(model).layers(model)]
    with torch.inference_mode():
        model(**prompt.inputs, use_cache=False, logits_to_keep=1)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(rows) for name, rows in found.items()}


def taus(engine, data) -> dict[str, list[list[float]]]:
    """Rater -> matrix of Kendall's tau between layers, mean over the examples."""
    depth = engine.facts.depth
    total = {name: torch.eye(depth, dtype=torch.float64) * len(data) for name in ("last", "text")}
    for example in track(data, description="Kendall's tau"):
        for name, rows in attentions(engine, example).items():
            for i, j in combinations(range(depth), 2):
                tau = float(kendalltau(rows[i].numpy(), rows[j].numpy()).statistic)
                total[name][i, j] += tau
                total[name][j, i] += tau
    return {name: (m / len(data)).tolist() for name, m in total.items()}


def essential(session: Session, attention: str, raters: str, tolerance: float) -> list[dict]:
    """For each layer: losses by count, and the fewest tokens within the tolerance."""
    rows = []
    start = 0 if attention == "own" else 1
    for layer in range(start, session.depth):
        select = TextAttention(Attention(raters, attention))
        plans = [Plan((Cut(layer, select, count),)) for count in GRID]
        shared = max(1, layer)
        lost = [session.search.losses(o) for o in session.search.evaluate(plans, shared)]
        # From the fullest down to the first that fails: a lucky pass below it does not count.
        fewest = None
        for count, losses in reversed(list(zip(GRID, lost, strict=True))):
            if fmean(losses) > tolerance:
                break
            fewest = count
        means = {str(c): round(fmean(x), 4) for c, x in zip(GRID, lost, strict=True)}
        rows.append({"layer": layer, "fewest": fewest, "loss": means, "error": round(max(map(error, lost)), 4)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=320)
    parser.add_argument("--tau-questions", type=int, default=160)
    parser.add_argument("--metric", default="exact")
    parser.add_argument("--tolerance", type=float, default=0.0125)
    parser.add_argument("--work", type=Path, default=Path("out/layers"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    for folder in (args.work, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    engine = hf.load()
    data = examples(range(args.questions), "test", 2)[: args.questions]
    study = Study(args.work / "layers.study", "layers", {"questions": args.questions, "metric": args.metric})
    session = Session(engine, Split(data, []), args.metric, study)
    tau_file = args.work / f"tau-{args.tau_questions}.json"
    if not tau_file.exists():
        files.write(tau_file, json.dumps(taus(engine, data[: args.tau_questions])).encode())
    console = Console(width=150)
    result = {
        "command": f"python benchmarks/layers.py --questions {args.questions} --tau-questions {args.tau_questions} "
        f"--metric {args.metric} --tolerance {args.tolerance}",
        "full": session.search.full().score,
        "tau": json.loads(tau_file.read_text()),
        "essential": {},
    }
    for name, matrix in result["tau"].items():
        table = Table(title=f"Kendall's tau between layers, rater: {name}")
        table.add_column("layer")
        for j in range(len(matrix)):
            table.add_column(str(j), justify="right")
        for i, row in enumerate(matrix):
            table.add_row(str(i), *(f"{v:.2f}" if i != j else "" for j, v in enumerate(row)))
        console.print(table)
    for attention, raters in RANKINGS:
        rows = essential(session, attention, raters, args.tolerance)
        counts = [r["fewest"] if r["fewest"] is not None else 576 for r in rows]
        falls = all(a >= b for a, b in pairwise(counts))
        result["essential"][f"{attention}, {raters}"] = {"rows": rows, "non_increasing": falls}
        table = Table(title=f"loss by count, one cut; ranked by {attention} layer, {raters}; non-increasing: {falls}")
        for column in ("before layer", "fewest", *map(str, GRID), "largest s.e."):
            table.add_column(column, justify="right")
        for r in rows:
            table.add_row(str(r["layer"]), str(r["fewest"]), *(f"{v:.3f}" for v in r["loss"].values()), f"{r['error']}")
        console.print(table)
    files.write(args.out / "layers.json", (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
