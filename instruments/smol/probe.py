"""How well can anything name things from the tower's features? A linear classifier, at several picture sizes.

    python -m instruments.smol.probe --sizes 168,224,336 --scenes 400 --held 200 --out RESULT.json

Features of layers 8 and 12 are pooled (mean and maximum) over each thing's own box, so that nothing has to be found:
what is missed here, no projector and no LLM can say. Judged on things in the pictures that training shows
(`validation`) and in those it does not (`unseen`: names of which one picture was kept out).
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from instruments.smol import features, world
from instruments.smol.parts import PATCH, tower
from instruments.smol.pictures import things

TOGETHER, STEPS, RATE, BATCH, DECAY = 10, 600, 3e-3, 512, 0.1


@torch.no_grad()
def pooled(split: str, first: int, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Pooled features of every thing in scenes first, first + 1, ... and its name's number; kept on disk."""
    file = features.folder(size, "pooled") / f"{split}-{first}-{count}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        row, model = {t.name: i for i, t in enumerate(things())}, tower(size).to(torch.bfloat16)
        seen, names = [], []
        for start in range(first, first + count, TOGETHER):
            scenes = [world.scene(split, n, size) for n in range(start, min(start + TOGETHER, first + count))]
            found = features.features_BLNC(model, features.pixels([image for image, _ in scenes]))[:, 1:].float()
            for f_LNC, (_, placed) in zip(found, scenes, strict=True):
                for p in placed:
                    if p.name in row:
                        of = f_LNC[:, world.cells_of(p.box, size // PATCH)]
                        seen.append(torch.cat([of.mean(1).flatten(), of.amax(1).flatten()]))
                        names.append(row[p.name])
        save_file({"seen": torch.stack(seen), "names": torch.tensor(names)}, part := file.with_suffix(".part"))
        part.rename(file)
    kept = load_file(file)
    return kept["seen"], kept["names"]


def many(split: str, count: int, size: int) -> tuple[Tensor, Tensor]:
    """All things of the first scenes, a hundred at a time, so that a killed run goes on."""
    parts = [pooled(split, first, min(100, count - first), size) for first in range(0, count, 100)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def learnt(seen: Tensor, names: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """The classifier, and the mean and deviation its features are standardised by."""
    torch.manual_seed(0)
    mean, std = seen.mean(0), seen.std(0) + 1e-3
    x, linear = (seen - mean) / std, nn.Linear(seen.shape[1], len(things()))
    optimizer = torch.optim.AdamW(linear.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        at = torch.randint(len(x), (BATCH,))
        loss = F.cross_entropy(linear(x[at]), names[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return linear, mean, std


def judged(linear: nn.Module, seen: Tensor, names: Tensor, split: str) -> dict[str, object]:
    """What it names rightly; of `unseen` scenes only the names that show an unseen picture count."""
    with torch.no_grad():
        hits = linear(seen).argmax(-1) == names
    if split == "unseen":
        hits = hits[torch.tensor([bool(t.unseen) for t in things()])[names]]
    return {"percent": round(100 * hits.float().mean().item(), 1), "hits": "".join("01"[h] for h in hits)}


def main() -> None:
    """All sizes, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="168,224,336")
    parser.add_argument("--scenes", type=int, default=400, help="of training")
    parser.add_argument("--held", type=int, default=200, help="scenes of unseen pictures, and half as many of others")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    for size in map(int, args.sizes.split(",")):
        seen, names = many("train", args.scenes, size)
        linear, mean, std = learnt(seen, names)
        row: dict[str, object] = {"things": len(names)}
        for split in ("validation", "unseen"):
            x, of = many(split, args.held if split == "unseen" else args.held // 2, size)
            row[split] = found = judged(linear, (x - mean) / std, of, split)
            print(size, split, found["percent"], "of", len(str(found["hits"])), flush=True)
        result[str(size)] = row
        part = args.out.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
        part.rename(args.out)


if __name__ == "__main__":
    main()
