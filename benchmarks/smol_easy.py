"""A third party's questions, easy-vqa's test set, with and without pruning: is our own world the only judge?

    python -m instruments.smol.easy train --minutes 13
    python -m instruments.smol.build EASY --weights RUN/weights.safetensors
    python -m instruments.smol.easy examples DIR --pictures 200
    python benchmarks/smol_easy.py --model EASY --data DIR

Nothing is chosen here: TOPS has the settings that were chosen on our world's validation questions, in smol.json.
Another picture answers yes and no as well, so methods are compared on the other questions (`open`).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from foveate import files
from foveate.methods import METHODS
from smol import Bench, Loaded
from smol_methods import SHARES, Table, paired, scored, still

RESULTS = Path(__file__).parent / "results"
PAIRS = (
    ("tops I", "full"), ("divprune", "full"), ("fastervlm", "full"), ("tops I", "divprune"), ("tops I", "fastervlm"),
    ("divprune", "fastervlm"), ("divprune", "random, seed 0"),
)  # fmt: skip


class Easy(Table):
    """The same table without validation questions or methods inside the LLM."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.file = args, args.out
        chosen = json.loads(args.chosen.read_text())["chosen"]["tops"]
        self.data = json.loads(self.file.read_text()) if self.file.exists() else {"ways": {}}
        self.data["chosen"] = {"tops": {k: chosen[k] for k in ("normalise", "transform")}}
        self.all = Bench(Loaded(args.model), args.data, args.work, args.questions)
        self.depth, self.tokens = self.all.depth, self.all.tokens


def opened(ways: dict[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """Every way, and the pairs, over the questions that are not of yes and no."""
    out: dict[str, Any] = {}
    for key, way in ways.items():
        hits = [h for h, kind in zip(way["hits"], kinds, strict=True) if kind != "exist"]
        out[key] = way | scored([h == "1" for h in hits]) | {"hits": "".join(hits)}
    named = [(f"{a} {s}", f"{b} 100%" if b == "full" else f"{b} {s}") for s in SHARES for a, b in PAIRS]
    pairs = {}
    for first, second in named:
        if first in out and second in out:
            pairs[f"{first} - {second}"] = paired(out[first]["hits"], out[second]["hits"])
    return {"ways": out, "pairs": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--chosen", type=Path, default=RESULTS / "smol.json", help="for TOPS's scale")
    parser.add_argument("--work", type=Path, default=Path("out/smol"))
    parser.add_argument("--out", type=Path, default=RESULTS / "smol_easy.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    t = Easy(args)
    t.add("full", "100%", lambda: None)
    t.put("another picture", "100%", t.all.wrong_picture(), None, t.all)
    scale = t.data["chosen"]["tops"]
    for share, keep in SHARES.items():
        t.add("tops I", share, lambda k=keep: still(METHODS["tops"](k, depth=t.depth, stages=1, **scale)))
        for name in ("divprune", "fastervlm"):
            t.add(name, share, lambda k=keep, n=name: still(METHODS[n](k)))
        t.add("random, seed 0", share, lambda k=keep: still(METHODS["random"](k, seed=0)))
        t.put("ground truth", share, t.all.oracle(round(keep * t.tokens)), None, t.all)
    t.data["open"] = opened(t.data["ways"], t.all.kinds)
    files.write(t.file, (json.dumps(t.data, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
