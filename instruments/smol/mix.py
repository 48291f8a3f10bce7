"""Weights between those that a run started from and those it came to: what it learnt, without what it lost.

    python -m instruments.smol.mix START RUN --shares 0.5,0.75,1      # accuracy of each on the validation splits
    python -m instruments.smol.mix START RUN --shares 0.5 --out DIR   # for `publish`

WiSE-FT (arXiv 2109.01903): where a run's data differs from what came before, weights between both answer better than
either. Here LoRA's factors are averaged, not their products: the run is short, and both lie close.
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from instruments.smol import features
from instruments.smol.decoder import Decoder
from instruments.smol.parts import cache
from instruments.smol.train import Projector, Words, accuracy, held, load_weights


def mixed(start: Path, run: Path, share: float, out: Path) -> None:
    """Write a run's folder of weights alone, `share` of them the run's."""
    first, last = (load_file(folder / "weights.safetensors") for folder in (start, run))
    out.mkdir(parents=True, exist_ok=True)
    tensors = {k: ((1 - share) * first[k].float() + share * v.float()).contiguous() for k, v in last.items()}
    save_file(tensors, out / "weights.safetensors")
    log = json.loads((run / "run.json").read_text(encoding="utf8")) | {"share": share}
    (out / "run.json").write_text(json.dumps(log, indent=1), encoding="utf8")


def main() -> None:
    """Write one, or measure several."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--shares", default="0.5,0.75,1")
    parser.add_argument("--scenes", type=int, default=40, help="of each split")
    parser.add_argument("--image-size", type=int, default=168)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--out", type=Path, help="write the one share there, measure nothing")
    given = parser.parse_args()
    shares = [float(s) for s in given.shares.split(",")]
    if given.out:
        mixed(given.start, given.run, shares[0], given.out)
        return
    model = Decoder.from_folder(cache() / "llm", given.rank)
    projector = Projector(len(features.LAYERS) * 384, model.config.hidden_size)
    words = Words(AutoTokenizer.from_pretrained(cache() / "llm"))
    for share in shares:
        mixed(given.start, given.run, share, trial := cache() / "mixed")
        load_weights(trial / "weights.safetensors", projector, model)
        for split in ("validation", "unseen"):
            found = accuracy(model, projector, words, *held(split, given.image_size, given.scenes))
            print(f"share {share} {split} {found}", flush=True)


if __name__ == "__main__":
    main()
