"""`python -m instruments.llava --out DIR`: from nothing to a checkpoint; run it again after a kill and it goes on."""

from __future__ import annotations

from pathlib import Path

from instruments.llava.answers import new_llava, train_answers
from instruments.llava.clip_stages import new_clip, train_clip
from instruments.llava.course import command
from instruments.llava.export import export, write_curves
from instruments.llava.recipe import RECIPE, Recipe


def train(out: Path, recipe: Recipe = RECIPE, processes: int = 2, device: str = "cpu") -> Path:
    """Run every stage that is not done yet and return the checkpoint's folder, `out/checkpoint`."""
    clip, heads = new_clip(recipe.seed, device)
    curves = train_clip(clip, heads, (recipe.windows, recipe.images), recipe.region, out, processes)
    write_curves(curves, out)
    clip.requires_grad_(False)
    clip.set_attn_implementation("sdpa")  # without a backward pass the fused attention is the fast one
    model = new_llava(clip, recipe.seed + 1).to(device)
    curves |= train_answers(clip, model, recipe.lessons, out, processes)
    folder = out / "checkpoint"
    export(clip.cpu(), model.cpu(), curves, folder)
    return folder


if __name__ == "__main__":
    command("instruments.llava", __doc__, train, RECIPE)
