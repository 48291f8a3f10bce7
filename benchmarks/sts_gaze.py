"""What each instrument's LLM looks at before it answers: the maps that teach a selector to read the question.

    python benchmarks/sts_gaze.py tiny --scenes 50              # and second
    python benchmarks/sts_gaze.py smol --model OUT --scenes 100 # OUT: as for sts_smol.py

For each layer: the share of the last prompt token's attention that the picture gets, how well it tells tokens that the
question needs from others (AUC), and how many of those are among the best ninth of all; last, of the sum over the
layers that teach by default (`readers`). Validation scenes. Figures go to benchmarks/results/sts_gaze.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate import files
from foveate.pointer.train.gaze import readers
from foveate.tiny.branches import answer_states, pack
from instruments.llava.attention import register
from instruments.qwen.checkpoint import load as load_second
from instruments.qwen.evaluate import FOLDER
from instruments.smol import features
from instruments.smol.examples import chosen
from instruments.smol.train import logits
from smol import Loaded
from smol_layers import auc
from sts_second import Second
from sts_world import World, load_model

RESULTS = Path(__file__).parent / "results" / "sts_gaze.json"
SIDE = 168


def load_world(which: str) -> Any:
    """The model of one of the two instruments that were trained from nothing."""
    if which == "tiny":
        return load_model()
    model, _ = load_second(FOLDER, dtype=torch.bfloat16)
    model.model.language_model.set_attn_implementation(register())
    return model


def world_of(which: str, model: Any, split: str, scenes: int, cache: Path, questions: int = 8) -> World:
    """Its scenes, an item a question."""
    return (World if which == "tiny" else Second)(model, split, scenes, questions, cache, 1)


class Over(Exception):
    """Ends a pass behind the last layer that was asked for."""


@torch.no_grad()
def small(world: World, scene: int, asked: Sequence[Any], layers: Sequence[int]) -> Tensor:
    """[questions, layers, N], for the two instruments that were trained from nothing."""
    n, head = world.frame.tokens, len(world.frame.head)
    branches, watch = pack([asked], world.frame), dict.fromkeys(layers, torch.zeros(0))
    answer_states(world.model, world.tokens([scene]), torch.arange(n)[None], branches, watch, world.frame)
    said = branches.targets[0] >= 0
    rows = [int((said & (branches.branch[0] == k)).nonzero()[0]) for k in range(1, len(asked) + 1)]
    return torch.stack([watch[i][0].float().mean(0)[rows][:, head : head + n] for i in layers], 1)


@torch.no_grad()
def large(decoder: Any, words: Any, visual_1ND: Tensor, asked: Sequence[Any], layers: Sequence[int]) -> Tensor:
    """The same of the instrument of pretrained parts, as far as the last of these layers."""
    last_K, before = [len(words.ids("\n" + q.text) + words.after) - 1 for q in asked], len(words.before)
    rows: dict[int, Tensor] = {}

    def watch(layer: int, to_prefix: Tensor, to_own: Tensor) -> Tensor:
        if layer in layers:
            every = torch.arange(len(last_K))
            both = [x[0][:, :, every, last_K].float() for x in (to_prefix, to_own)]
            rows[layer] = torch.cat(both, -1).softmax(-1).mean((0, 1))[:, before : to_prefix.shape[-1]]
        if layer == max(layers):
            raise Over
        return to_prefix

    with suppress(Over):
        logits(decoder, visual_1ND, words, [asked], watch=watch)
    return torch.stack([rows[i] for i in layers], 1)


def stored(file: Path, scenes: int, make: Any) -> list[Tensor]:
    """Maps of many scenes, [questions, N] each, from the file if they are there; `make`: scene -> map."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        found = {str(s): make(s).half().contiguous() for s in track(range(scenes), description=file.name)}
        save_file(found, part := file.with_suffix(".part"))
        part.rename(file)
    known = load_file(file)
    return [known[str(s)].float() for s in range(scenes)]


def entry(maps: list[Tensor], needed: list[Tensor]) -> dict[str, Any]:
    """Figures by layer, and of the layers that would teach by default, together, last."""
    count = round(len(needed[0]) / 9)
    rows: dict[str, list[float]] = {"mass": torch.stack(maps).sum(-1).mean(0).tolist(), "auc": [], "caught": []}
    found = readers(torch.tensor(rows["mass"]))
    maps = [torch.cat((m, m[found].sum(0, keepdim=True))) for m in maps]
    some = [(m, n) for m, n in zip(maps, needed, strict=True) if n.any() and not n.all()]
    for i in range(len(maps[0])):
        rows["auc"].append(fmean(auc(m[i], n) for m, n in some))
        rows["caught"].append(
            fmean(float(n[m[i].topk(count).indices].sum() / n.sum().clamp(max=count)) for m, n in some)
        )
    result: dict[str, Any] = {k: [round(v, 3) for v in row] for k, row in rows.items()}
    result |= {"questions": len(some), "readers": found}
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["tiny", "second", "smol"])
    parser.add_argument("--model")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--cache", type=Path, default=Path("out/sts/features"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    maps: list[Tensor] = []
    needed: list[Tensor] = []
    if args.which == "smol":
        loaded = Loaded(args.model)
        every = range(loaded.engine.facts.depth)
        seen = features.load("validation", SIDE, args.scenes)
        for s in track(range(args.scenes)):
            asked = chosen("validation", s, SIDE, 8)
            visual = loaded.engine.model.model.multi_modal_projector(seen[s : s + 1].transpose(1, 2).flatten(2))
            maps += large(loaded.decoder, loaded.words, visual, asked, every)
            for q in asked:
                needed.append(torch.zeros(visual.shape[1], dtype=torch.bool))
                needed[-1][list(q.cells(SIDE // 14))] = True
    else:
        world = world_of(args.which, load_world(args.which), "val", args.scenes, args.cache)
        every = range(world.model.config.get_text_config().num_hidden_layers)
        for s in track(range(args.scenes)):
            asked = world.scenes[s].questions
            maps += small(world, s, asked, every)
            needed += [torch.from_numpy(world.frame.covered(q.boxes)) for q in asked]
    result = entry(maps, needed)
    print(json.dumps(result))
    known = json.loads(args.results.read_text()) if args.results.exists() else {}
    files.write(args.results, (json.dumps(known | {args.which: result}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
