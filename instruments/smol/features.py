"""What the frozen tower says about every training scene, computed once: the LLM's training never runs the tower.

    python -m instruments.smol.features train 3000 --image-size 168    # (168 / 14)^2 = 144 tokens; 336 gives 576

One file per hundred scenes, so a second call goes on where the first stopped and training may start meanwhile.
Layers: 0 (patch and position embeddings: where), 8 and 12 (what). Stored as bf16, 332 kB a scene at 144 tokens.
"""

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from instruments.smol import world
from instruments.smol.parts import PATCH, cache, tower

LAYERS = (0, 8, 12)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHUNK = 100


def folder(image_size: int, what: str = "features") -> Path:
    """Where what the tower says of scenes of `image_size` pixels lies, apart for each table of pictures."""
    table = hashlib.sha256((Path(__file__).parent / "things.json").read_bytes()).hexdigest()
    return cache() / f"{what}-{image_size}-{table[:8]}"


def pixels(images: list) -> Tensor:
    """Normalised (B, 3, S, S)."""
    stacked = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 255
    return (stacked - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.no_grad()
def features_BLNC(model: torch.nn.Module, pixels_B3SS: Tensor) -> Tensor:
    """The chosen layers' hidden states without [CLS], (B, layers, tokens, 384)."""
    dtype = next(model.parameters()).dtype
    states = model(pixels_B3SS.to(dtype), output_hidden_states=True).hidden_states
    return torch.stack([states[layer][:, 1:] for layer in LAYERS], 1)


def chunk(split: str, first: int, image_size: int) -> Path:
    """File of the scenes first, first + 1, ... first + CHUNK - 1."""
    return folder(image_size) / f"{split}-{first}.safetensors"


def make(split: str, count: int, image_size: int, device: str) -> None:
    """Write every missing chunk."""
    folder(image_size).mkdir(parents=True, exist_ok=True)
    model = tower(image_size).to(device, torch.bfloat16)
    start = time.time()
    for first in range(0, count, CHUNK):
        if (target := chunk(split, first, image_size)).exists():
            continue
        parts = []
        for at in range(first, first + CHUNK, 10):
            images = [world.scene(split, n, image_size)[0] for n in range(at, at + 10)]
            parts.append(features_BLNC(model, pixels(images).to(device)).to("cpu", torch.bfloat16))
        save_file({"features": torch.cat(parts)}, part := target.with_suffix(".part"))
        part.rename(target)
        print(split, first + CHUNK, f"{time.time() - start:.0f} s", flush=True)


def load(split: str, image_size: int, most: int | None = None) -> Tensor:
    """Every chunk there is, in order, (scenes, layers, tokens, 384) bf16."""
    tokens = (image_size // PATCH) ** 2
    found, first = [torch.zeros(0, len(LAYERS), tokens, 384, dtype=torch.bfloat16)], 0
    while (file := chunk(split, first, image_size)).exists() and (most is None or first < most):
        found.append(load_file(file)["features"])
        first += CHUNK
    return torch.cat(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("split", choices=("train", "validation", "unseen", "test"))
    parser.add_argument("count", type=int)
    parser.add_argument("--image-size", type=int, default=168)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    make(given.split, given.count, given.image_size, given.device)
