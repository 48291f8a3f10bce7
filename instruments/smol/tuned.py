"""Would a tower that may learn name more? LoRA on its last third, judged as `probe.py` judges the frozen one.

    python -m instruments.smol.tuned --scenes 2500 --out RESULT.json    # `features.py` first: train, validation, unseen

Blocks 9 to 12 run on the cached features of block 8 (so without [CLS]), and what they say is pooled over each thing's
own box beside block 8's. First a linear classifier is trained on them as they are, then it and the LoRA together.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruments.smol import features, world
from instruments.smol.parts import PATCH, tower
from instruments.smol.pictures import things
from instruments.smol.probe import judged, learnt

SIZE, FIRST, TOGETHER, RATE, HEAD_RATE = 168, 8, 8, 5e-4, 3e-4


def blocks(rank: int) -> nn.ModuleList:
    """The tower's last blocks, LoRA in every linear layer."""
    from peft import LoraConfig, inject_adapter_in_model

    late = nn.ModuleList(tower(SIZE).encoder.layer[FIRST:])
    return inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"), late)


class Things:
    """Cached features of a split's scenes, and what is where in each."""

    def __init__(self, split: str, count: int) -> None:
        row = {t.name: i for i, t in enumerate(things())}
        self.states_SND = features.load(split, SIZE, count)[:count, 1]
        placed = [world.layout(split, n, SIZE).placed for n in range(len(self.states_SND))]
        self.at = [[(row[p.name], world.cells_of(p.box, SIZE // PATCH)) for p in of if p.name in row] for of in placed]

    def pooled(self, late: nn.ModuleList, scenes: list[int]) -> tuple[Tensor, Tensor]:
        """What a classifier sees of every thing in some scenes, and the number of its name."""
        early = self.states_SND[scenes].float()
        said = early
        for block in late:
            said = block(said)
        both = torch.cat([early, said], -1)
        cells = [(name, both[i, where]) for i, n in enumerate(scenes) for name, where in self.at[n]]
        seen = torch.stack([torch.cat([of.mean(0), of.amax(0)]) for _, of in cells])
        return seen, torch.tensor([name for name, _ in cells])

    @torch.no_grad()
    def all(self, late: nn.ModuleList) -> tuple[Tensor, Tensor]:
        """The same of all scenes."""
        parts = [
            self.pooled(late, list(range(i, min(i + TOGETHER, len(self.at))))) for i in range(0, len(self.at), TOGETHER)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def main() -> None:
    """Frozen, then tuned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=2500, help="of training")
    parser.add_argument("--held", type=int, default=100, help="scenes to judge on, of each split")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    late, train = blocks(args.rank), Things("train", args.scenes)
    held = {split: Things(split, args.held) for split in ("validation", "unseen")}
    linear, mean, std = learnt(*train.all(late))
    result: dict[str, dict[str, object]] = {}

    def judge(name: str) -> None:
        result[name] = {}
        for split, of in held.items():
            seen, names = of.all(late)
            result[name][split] = found = judged(linear, (seen - mean) / std, names, split)
            print(name, split, found["percent"], "of", len(str(found["hits"])), flush=True)

    judge("frozen")
    tuned = [p for p in late.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([{"params": tuned, "lr": RATE}, {"params": linear.parameters(), "lr": HEAD_RATE}])
    order = [n for e in range(args.epochs) for n in random.Random(e).sample(range(len(train.at)), len(train.at))]
    rates, steps, start = [RATE, HEAD_RATE], len(order) // TOGETHER, time.process_time()
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, (step + 1) / 20) * (1 - step / steps)
        seen, names = train.pooled(late, order[step * TOGETHER : (step + 1) * TOGETHER])
        loss = F.cross_entropy(linear((seen - mean) / std), names)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(step + 1, "of", steps, f"loss {loss.item():.3f}, {time.process_time() - start:.0f} cpu s", flush=True)
    judge("LoRA")
    part = args.out.with_suffix(".part")
    part.write_text(json.dumps(result | {"things": int(sum(map(len, train.at)))}, indent=1) + "\n", encoding="utf8")
    part.rename(args.out)


if __name__ == "__main__":
    main()
