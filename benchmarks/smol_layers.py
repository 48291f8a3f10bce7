"""Is the instrument of pretrained parts like the real ones? What its layers do with the picture.

    python benchmarks/smol_layers.py --model OUT --data VALIDATION [--bare OUT0] [--scenes 12] [--maps 40]

OUT: `python -m instruments.smol.build OUT`. VALIDATION: `python -m instruments.smol.examples VALIDATION --split
validation`. OUT0: the same model without our LoRA (`... build OUT0 --without-lora`), for one of the controls.

- tau: Kendall's tau between the attention that two layers pay to the visual tokens, mean over questions; rater: the
  last prompt token, or the question's words. Controls: the two layers look at different pictures; the mean map of each
  layer is taken away; no LoRA.
- hidden: accuracy where from layer i on no token of the question sees the picture.
- essential: fewest tokens with at most --tolerance nats lost where from layer i on the question sees only the best by
  that layer's own attention (a grid of counts, from the fullest down to the first that fails).
- mass, AUC: of the last prompt token's attention in each layer: the share on visual tokens, and how well it tells
  tokens that the question needs from the others. [CLS] likewise, for tokens of any thing.
- positions: accuracy where the kept tokens are renumbered, against where they stay.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from rich.console import Console
from scipy.stats import kendalltau

from foveate import files
from foveate.engines.prompting import prepare_batch
from foveate.methods import METHODS
from instruments.smol.train import logits, right
from smol import Bench, Loaded, Outcome, Scene, over

COUNTS = (0, 4, 16, 64)
STARTS = (0, 8, 16, 20, 23, 26, 29)


@torch.inference_mode()
def maps(bench: Bench, count: int) -> dict[str, torch.Tensor]:
    """Attention to visual tokens, (questions, layers, tokens), of the last prompt token and of the question's words.

    And the last token's share on them, (questions, layers). One question a scene: the first that needs something.
    """
    found: dict[str, list[torch.Tensor]] = {"last": [], "words": [], "mass": [], "needed": []}
    model = bench.engine.model
    # In fp32: attention rounded to bf16 has ties, and ranks would be of rounding.
    model.float().set_attn_implementation("eager")
    for scene in over(bench.scenes[:count], "attention maps"):
        at = next(i for i, q in enumerate(scene.questions) if q.needs)
        example, question = scene.examples[at], scene.questions[at]
        prompt = prepare_batch(bench.engine, [(example.pictures(), example.question)])
        visual = prompt.inputs["input_ids"][0] == model.config.image_token_id
        attention = model(**prompt.inputs, output_attentions=True, logits_to_keep=1).attentions
        mean = torch.stack([a[0].float().mean(0) for a in attention])
        words = slice(int(visual.nonzero()[-1]) + 2, mean.shape[-1] - prompt.tail)
        found["last"].append(mean[:, -1, visual])
        found["words"].append(mean[:, words, :][..., visual].mean(1))
        found["mass"].append(found["last"][-1].sum(-1))
        needed = torch.zeros(bench.tokens, dtype=torch.bool)
        needed[list(question.cells(bench.side))] = True
        found["needed"].append(needed)
    model.bfloat16().set_attn_implementation("sdpa")
    return {k: torch.stack(v) for k, v in found.items()}


def tau(first_QLN: torch.Tensor, second_QLN: torch.Tensor) -> dict[str, float]:
    """Mean over questions and over pairs of layers: all, neighbours, and those of the last third."""
    depth = first_QLN.shape[1]
    sums: dict[tuple[int, int], list[float]] = {}
    for a, b in zip(first_QLN.numpy(), second_QLN.numpy(), strict=True):
        for i, j in combinations(range(depth), 2):
            sums.setdefault((i, j), []).append(float(kendalltau(a[i], b[j]).statistic))
    mean = {pair: fmean(v) for pair, v in sums.items()}
    late = [v for (i, _), v in mean.items() if i >= 2 * depth // 3]
    near = [v for (i, j), v in mean.items() if j == i + 1]
    later = [v for (i, _), v in mean.items() if i >= 1]
    named = {"all": list(mean.values()), "neighbours": near, "last third": late, "without the first layer": later}
    return {k: round(fmean(v), 3) for k, v in named.items()} | {"most": round(max(mean.values()), 3)}


def auc(score_N: torch.Tensor, needed_N: torch.Tensor) -> float:
    """Chance that a needed token has more than one that is not."""
    order = score_N.argsort().argsort().float()
    n, m = int(needed_N.sum()), int((~needed_N).sum())
    return float((order[needed_N].sum() - n * (n - 1) / 2) / (n * m))


def layers_tau(seen: dict[str, torch.Tensor]) -> dict[str, dict[str, dict[str, float]]]:
    """For both raters: as it is, on different pictures, without each layer's mean map."""
    out = {}
    for rater in ("last", "words"):
        x = seen[rater]
        out[rater] = {
            "same picture": tau(x, x),
            "different pictures": tau(x, x.roll(1, 0)),
            "mean map removed": tau(x - x.mean(0, keepdim=True), x - x.mean(0, keepdim=True)),
        }
    return out


class Narrow:
    """From layer `start` on each question sees the `count` visual tokens that its last prompt token attends to most."""

    def __init__(self, bench: Bench, scene: Scene, start: int, count: int) -> None:
        self.start, self.count, self.before = start, count, len(bench.words.before)
        tail, ids = len(bench.words.after), bench.words.ids
        self.last = torch.tensor([len(ids("\n" + q.text)) + tail - 1 for q in scene.questions])

    def __call__(self, layer: int, to_prefix: torch.Tensor, to_own: torch.Tensor) -> torch.Tensor:
        if layer < self.start:
            return to_prefix
        if layer == self.start:
            shares = torch.cat([to_prefix, to_own], -1).float().softmax(-1)[..., self.before : to_prefix.shape[-1]]
            shares = shares.mean((1, 2))[0]
            rated_KN = shares[torch.arange(len(self.last)), self.last]
            top = rated_KN.topk(self.count, -1).indices
            self.hidden_KN = torch.ones_like(rated_KN, dtype=torch.bool).scatter_(1, top, False)
        hidden = F.pad(self.hidden_KN, (self.before, 0))
        return to_prefix.masked_fill(hidden[None, None, None, :, None], float("-inf"))


@torch.inference_mode()
def narrowed(bench: Bench, start: int, count: int) -> tuple[list[float], list[bool]]:
    """Loss of each answer (mean over its tokens, its end among them) and whether it is right."""
    losses, said = [], []
    for scene in over(bench.scenes, f"layer {start}, {count} tokens"):
        watch = Narrow(bench, scene, start, count)
        visual = scene.view.need("hidden_BND")
        found, labels = logits(bench.decoder, visual, bench.words, [scene.questions], watch=watch)
        said += right(found, labels)[0][: len(scene.questions)]
        wanted = labels != -100
        nats = torch.zeros(labels.shape)
        nats[wanted] = F.cross_entropy(found, labels[wanted], reduction="none")
        losses += (nats[0].sum(-1) / wanted[0].sum(-1))[: len(scene.questions)].tolist()
    return losses, said


def essential(bench: Bench, tolerance: float) -> dict[str, object]:
    """Hidden pictures and fewest tokens, by layer."""
    full, hits = narrowed(bench, bench.depth, 0)
    out: dict[str, object] = {"full": round(100 * fmean(hits), 1), "tolerance": tolerance, "layers": {}}
    for start in STARTS:
        fewest, lost = bench.tokens, {}
        row = {}
        for count in reversed(COUNTS):
            losses, said = narrowed(bench, start, count)
            lost[count] = round(fmean(losses) - fmean(full), 4)
            row[count] = round(100 * fmean(said), 1)
        for count in reversed(COUNTS):
            if lost[count] > tolerance:
                break
            fewest = count
        out["layers"][start] = {"fewest": fewest, "lost": lost, "percent": row}  # type: ignore[index]
        Console().print(f"layer {start}: fewest {fewest}; hidden {row[0]} %; lost {lost}")
    return out


def cls_tail(bench: Bench) -> dict[str, float]:
    """How [CLS] attends: AUC for tokens of things (any question's boxes), share of the top tenth, largest over mean."""
    aucs, shares, peaks = [], [], []
    for scene in bench.scenes:
        row = scene.view.need("cls_attn_BN")[0].float()
        thing = torch.zeros(bench.tokens, dtype=torch.bool)
        thing[[c for q in scene.questions for c in q.cells(bench.side)]] = True
        aucs.append(auc(row, thing))
        shares.append(float(row.topk(bench.tokens // 10).values.sum() / row.sum()))
        peaks.append(float(row.max() / row.mean()))
    return {"auc": round(fmean(aucs), 3), "top tenth": round(fmean(shares), 3), "peak": round(fmean(peaks), 1)}


def positions(bench: Bench) -> dict[str, list[float]]:
    """DivPrune's tokens, where they were and renumbered."""
    out = {}
    for share, keep in (("22.2%", 2 / 9), ("11.1%", 1 / 9)):
        plan = METHODS["divprune"](keep)
        k = plan.cuts[0].count(bench.tokens)
        masks = [plan.cuts[0].select(s.view.only(plan.reads), k).keep_BN[0] for s in bench.scenes]
        stay = bench.masks(f"divprune {share}", masks)
        moved: list[bool] = []
        for scene, mask in zip(bench.scenes, masks, strict=True):
            shown = scene.view.need("hidden_BND")[:, mask]
            with torch.inference_mode():
                moved += right(*logits(bench.decoder, shown, bench.words, [scene.questions]))[0][: len(scene.questions)]
        out[share] = [round(stay.percent, 1), round(Outcome(moved).percent, 1)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bare", help="the model without LoRA")
    parser.add_argument("--scenes", type=int, default=12, help="for hidden and essential")
    parser.add_argument("--maps", type=int, default=40)
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--parts", default="maps,essential,positions")
    parser.add_argument("--work", type=Path, default=Path("out/smol"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "smol_layers.json")
    args = parser.parse_args()
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    bench = Bench(Loaded(args.model), args.data, args.work, 8 * max(args.maps, args.scenes))

    def save() -> None:
        files.write(args.out, (json.dumps(result, indent=1) + "\n").encode())

    if "maps" in args.parts:
        seen = maps(bench, args.maps)
        by_layer = lambda values: [round(v, 3) for v in values]  # noqa: E731
        aucs = [
            [auc(row[i], n) for i in range(bench.depth)] for row, n in zip(seen["last"], seen["needed"], strict=True)
        ]
        pairs = list(zip(seen["words"], seen["needed"], strict=True))
        words = [[auc(row[i], n) for i in range(bench.depth)] for row, n in pairs]
        result |= {
            "maps": len(seen["last"]),
            "tau": layers_tau(seen),
            "mass": by_layer(seen["mass"].mean(0).tolist()),
            "auc": by_layer([fmean(c) for c in zip(*aucs, strict=True)]),
            "auc words": by_layer([fmean(c) for c in zip(*words, strict=True)]),
            "cls": cls_tail(bench),
        }
        save()
        if args.bare:
            x = maps(Bench(Loaded(args.bare), args.data, args.work, 8 * args.maps), args.maps)
            result["tau"]["no LoRA"] = {r: tau(x[r], x[r]) for r in ("last", "words")}
    if "positions" in args.parts:
        result["positions"] = positions(bench)
    if "essential" in args.parts:
        few = bench.first(args.scenes)
        result["essential"] = {"questions": len(few.examples), **essential(few, args.tolerance)}
    save()


if __name__ == "__main__":
    main()
