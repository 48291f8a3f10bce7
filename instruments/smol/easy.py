"""A third party's questions for the same model: easy-vqa (MIT, PyPI), one coloured shape on a light ground.

    python -m instruments.smol.easy probe                         # do the tower's features name shape and colour?
    python -m instruments.smol.easy train --minutes 13            # a short adaptation, from instruments/smol
    python -m instruments.smol.build OUT --weights RUN/weights.safetensors
    python -m instruments.smol.easy examples DIR [--split test]   # for `benchmarks/smol_easy.py --data DIR`

It keeps our world from being the only judge. Its pictures are 64 x 64 and are enlarged to the tower's side; its own
split is kept (4,000 pictures to train, of which the last 100 are for validation here; 1,000 to test). The box of a
question is the shape's, found as what differs from the ground. Of its questions eight in ten are of yes and no, and
half of those say "not": per picture at most `YES_NO` of them are asked, so that shape and colour weigh as much.
"""

import argparse
import functools
import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from instruments.smol import features, world
from instruments.smol.examples import write
from instruments.smol.parts import cache, tower, wheel
from instruments.smol.train import Run, load_weights, options

SPEC, INSIDE = "easy-vqa==1.0", "easy_vqa/data"
PICTURES, VALIDATION, ADAPT, YES_NO = 4000, 100, 800, 3
SHAPES = ("circle", "rectangle", "triangle")


@functools.cache
def archive() -> zipfile.ZipFile:
    """The package."""
    return zipfile.ZipFile(wheel(SPEC))


def located(split: str, n: int) -> tuple[str, int]:
    """Picture n of our split, in theirs: validation is the end of their training split."""
    return ("train", PICTURES - VALIDATION + n) if split == "validation" else (split, n)


def picture(split: str, n: int, side: int) -> tuple[Image.Image, world.Box]:
    """Picture n, side x side, and the shape's box."""
    theirs, at = located(split, n)
    image = Image.open(io.BytesIO(archive().read(f"{INSIDE}/{theirs}/images/{at}.png"))).convert("RGB")
    pixels = np.asarray(image).astype(int)
    ys, xs = np.nonzero(np.abs(pixels - np.median(pixels, (0, 1))).max(-1) > 40)
    h, w = pixels.shape[:2]
    box = (xs.min() / w, ys.min() / h, (xs.max() + 1) / w, (ys.max() + 1) / h)
    return image.resize((side, side), Image.Resampling.BICUBIC), tuple(map(float, box))


@functools.cache
def rows(theirs: str) -> dict[int, list[tuple[str, str]]]:
    """Question and answer by picture."""
    out: dict[int, list[tuple[str, str]]] = {}
    for text, answer, n in json.loads(archive().read(f"{INSIDE}/{theirs}/questions.json")):
        out.setdefault(n, []).append((text, answer))
    return out


def questions(split: str, n: int, r: random.Random, box: world.Box = (0, 0, 1, 1)) -> list[world.Question]:
    """What is asked about picture n: all of shape and colour, some of yes and no."""
    theirs, at = located(split, n)
    asked = [
        world.Question("exist" if a in ("yes", "no") else "shape" if a in SHAPES else "colour", q, a, (box,))
        for q, a in rows(theirs).get(at, [])
    ]
    some = [q for q in asked if q.kind == "exist"]
    return [q for q in asked if q.kind != "exist"] + r.sample(some, min(YES_NO, len(some)))


@torch.no_grad()
def seen(split: str, count: int, side: int) -> Tensor:
    """The tower's features of the first pictures of a split, worked out once."""
    from safetensors.torch import load_file, save_file

    file = cache() / f"easy-{side}" / f"{split}-{count}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        model, parts = tower(side).to(torch.bfloat16), []
        for first in range(0, count, 10):
            images = [picture(split, n, side)[0] for n in range(first, min(first + 10, count))]
            parts.append(features.features_BLNC(model, features.pixels(images)).to(torch.bfloat16))
        save_file({"features": torch.cat(parts)}, part := file.with_suffix(".part"))
        part.rename(file)
    return load_file(file)["features"]


class Adaptation(Run):
    """The same training on their pictures."""

    def load(self) -> None:
        """Features of the pictures to adapt to."""
        self.train = seen("train", ADAPT, self.given.image_size)

    def resume(self) -> float:
        """A new adaptation counts its steps and minutes from the beginning."""
        if (self.folder / "run.json").exists():
            return super().resume()
        load_weights(Path(self.given.start) / "weights.safetensors", self.projector, self.model)
        return 0.0

    def asked(self, n: int, r: random.Random) -> list[world.Question]:
        """Questions about training picture n."""
        return questions("train", n, r)[: self.given.questions]

    def checked(self, split: str = "validation") -> tuple[Tensor, list[list[world.Question]]]:
        """Features of the validation pictures, and questions about each; there are no unseen ones."""
        most = min(self.given.measure, VALIDATION) if split == "validation" else 0
        asked = [questions("validation", n, world.chance("easy", n)) for n in range(most)]
        return seen("validation", VALIDATION, self.given.image_size)[:most], asked


def named(split: str, n: int, colour: bool) -> str | None:
    """The shape or the colour in a picture, where a question tells it."""
    theirs, at = located(split, n)
    words = [a for _, a in rows(theirs).get(at, []) if a not in ("yes", "no") and (a in SHAPES) != colour]
    return words[0] if words else None


def probe(side: int, steps: int = 200) -> None:
    """How well a linear classifier on the tower's features, each layer's mean over the picture, names what is there."""
    train, held = (seen(s, c, side).float().mean(2) for s, c in (("train", ADAPT), ("validation", VALIDATION)))
    mean, std = train.mean(0), train.std(0) + 1e-3
    known = {"train": (train - mean) / std, "validation": (held - mean) / std}
    for colour in (False, True):
        words = {split: [named(split, n, colour) for n in range(len(of))] for split, of in known.items()}
        names = sorted({w for w in words["train"] if w})
        told = {split: [n for n, w in enumerate(of) if w] for split, of in words.items()}
        labels = {split: torch.tensor([names.index(words[split][n]) for n in at]) for split, at in told.items()}
        for i, layer in enumerate(features.LAYERS):
            torch.manual_seed(0)
            linear = torch.nn.Linear(train.shape[-1], len(names))
            optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-2)
            for _ in range(steps):
                loss = F.cross_entropy(linear(known["train"][told["train"], i]), labels["train"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            hits = linear(known["validation"][told["validation"], i]).argmax(1) == labels["validation"]
            print("colour" if colour else "shape", "layer", layer, f"{int(hits.sum())} of {len(hits)}", flush=True)


def drawn(split: str, n: int, side: int) -> tuple[Image.Image, list[world.Question]]:
    """Picture n with what is asked about it."""
    image, box = picture(split, n, side)
    return image, questions(split, n, world.chance("easy", split, n), box)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ways = parser.add_subparsers(dest="way", required=True)
    ways.add_parser("train", parents=[given := options("")], add_help=False)
    given.set_defaults(start=str(Path(__file__).parent), run=str(cache() / "easy"), names=0, naming=0, scenes=6)
    ways.add_parser("probe").add_argument("--side", type=int, default=168)
    make = ways.add_parser("examples")
    make.add_argument("out", type=Path)
    make.add_argument("--split", default="test", choices=("validation", "test"))
    make.add_argument("--pictures", type=int, default=200)
    make.add_argument("--side", type=int, default=168)
    args = parser.parse_args()
    if args.way == "train":
        Adaptation(args).learn()
    elif args.way == "probe":
        probe(args.side)
    else:
        pictures = (drawn(args.split, n, args.side) for n in range(args.pictures))
        write(args.out, f"easy-{args.split}", pictures)
