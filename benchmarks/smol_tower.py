"""ToMe between the layers of a pretrained tower, DINOv2 ViT-S, and behind it, on the instrument of pretrained parts.

    python benchmarks/smol_tower.py --model OUT --data TEST --work WORK [--questions 1171]

OUT and TEST as in `smol_methods.py`. Held-out questions, paired; a picture is encoded once a way, and its questions
share it. Shares right, with differences to merging behind the tower, go to --out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from foveate import Plan, attach, files
from foveate.bench.statistics import compare, interval
from foveate.engines.prompting import prepare_batch
from foveate.methods import METHODS
from instruments.smol.train import logits, right
from smol import Bench, Loaded, Scene, over

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--work", type=Path, required=True)
parser.add_argument("--questions", type=int, default=1171)
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "smol_tower.json")
SHARES = {"22.2%": 2 / 9, "11.1%": 1 / 9}
BEHIND = "tome, behind the tower"
WAYS: dict[str, Any] = {
    BEHIND: lambda k: METHODS["tome"](k),
    "tome, in the tower": lambda k: METHODS["tome"](k, at="tower"),
    "tome, in the tower, plain attention": lambda k: METHODS["tome"](k, at="tower", proportional=False),
    "divprune": lambda k: METHODS["divprune"](k),
    "random": lambda k: METHODS["random"](k),
}


@torch.inference_mode()
def answers(bench: Bench, scene: Scene, plan: Plan) -> list[bool]:
    """Right or wrong, for each question of a scene."""
    cut = plan.cuts[0]
    if cut.at == "input":
        keep_BN = cut.select(scene.view.only(cut.select.reads), cut.count(bench.tokens)).keep_BN
        return bench.answers(scene, keep_BN[0])
    inputs = prepare_batch(bench.engine, [(scene.examples[0].pictures(), "?")]).inputs
    with attach(bench.engine.model, plan) as attached:
        features = attached.base.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output[0]
        kept = attached.pending["image"].images[0].kept
    found, labels = logits(
        bench.decoder, features[kept][None], bench.words, [scene.questions], kept[None], bench.tokens
    )
    return right(found, labels)[0][: len(scene.questions)]


def main() -> None:
    args = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(Loaded(args.model), args.data, args.work, args.questions)
    whole = torch.ones(bench.tokens, dtype=torch.bool)
    full = [float(x) for s in over(bench.scenes, "all") for x in bench.answers(s, whole)]
    rows: dict[str, Any] = {"all tokens": {"right": sum(full) / len(full), "interval": interval(full)}}
    for share, part in SHARES.items():
        scores: dict[str, list[float]] = {}
        for name, make in WAYS.items():
            plan = make(round(part * bench.tokens))
            scores[name] = [float(x) for s in over(bench.scenes, name) for x in answers(bench, s, plan)]
            against = compare(scores[name], scores[BEHIND])
            rows[f"{name}@{share}"] = {
                "right": sum(scores[name]) / len(full),
                "interval": interval(scores[name]),
                "against tome behind": [against.difference, against.low, against.high, against.p],
            }
            print(f"{name}@{share}", json.dumps(rows[f"{name}@{share}"]), flush=True)
            files.write(args.out, (json.dumps({"questions": len(full), "ways": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
