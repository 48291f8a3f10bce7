"""`python -m foveate.tiny.train --out DIR`: from nothing to a checkpoint; run it again after a kill and it goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

from foveate.tiny.train.answers import new_llava, train_answers
from foveate.tiny.train.clip_stages import new_clip, train_clip
from foveate.tiny.train.export import export, write_curves
from foveate.tiny.train.recipe import RECIPE, Recipe


def train(out: Path, recipe: Recipe = RECIPE, processes: int = 2) -> Path:
    """Run every stage that is not done yet and return the checkpoint's folder, `out/checkpoint`."""
    clip, heads = new_clip(recipe.seed)
    curves = train_clip(clip, heads, (recipe.windows, recipe.images), recipe.region, out, processes)
    write_curves(curves, out)
    clip.requires_grad_(False)
    clip.set_attn_implementation("sdpa")  # without a backward pass the fused attention is the fast one
    model = new_llava(clip, recipe.seed + 1)
    curves |= train_answers(clip, model, recipe.lessons, out, processes)
    folder = out / "checkpoint"
    export(clip, model, curves, folder)
    return folder


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m foveate.tiny.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for states, curves and the checkpoint")
    parser.add_argument("--processes", type=int, default=2, help="one-thread processes that share the work")
    parser.add_argument("--at-most", type=int, help="cap the steps of every stage, to try the whole way quickly")
    args = parser.parse_args()
    recipe = RECIPE if args.at_most is None else RECIPE.shortened(args.at_most)
    print(train(args.out, recipe, args.processes))


if __name__ == "__main__":
    main()
