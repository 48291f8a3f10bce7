"""Training-free ways of choosing once, before the LLM, on as many scenes as wanted; answers that are stored stay.

    python benchmarks/sts_rivals.py --split val --scenes 60            # which ways are near the best
    python benchmarks/sts_rivals.py --scenes 1000 --ways full "tops, stage I" divprune --budgets 111 056
    python benchmarks/sts_rivals.py --scenes 400 --pair many           # `sts_many.py`'s answers against all stored ones

Scenes go in chunks, every way is asked a chunk before any is asked the next. Answers go to `rivals/BUDGET` in
benchmarks/results/sts.json, which `sts_many.py test` pairs with. Ways that read the question are asked question by
question; the others once a scene.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate import files, tiny
from foveate.selection import TokenView
from foveate.tiny import world as tiny_world
from foveate.tiny.statistics import holm
from sts_figures import against, others, said
from sts_ways import Spread, asking_methods, blind_methods, by_selector, first, spread, views
from sts_world import World, load_model

TOKENS = 576
BUDGETS = {"222": 128, "111": 64, "056": 32}
CHUNK, ROOM = 100, 2.5
DISTANCE = "farthest, distance threshold"
Pair = tuple[str, str, float, dict[str, Any]]
"""A budget, a way, its percent right, and the difference to it."""


def known(path: Path) -> dict[str, Any]:
    """The file of results."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def store(path: Path, entries: dict[str, Any]) -> None:
    """Add entries to the file of results, as it is now."""
    whole = dict(sorted((known(path) | entries).items()))
    files.write(path, (json.dumps(whole, indent=1) + "\n").encode())


def begun(evaluated: dict[str, Any], name: str, split: str) -> dict[str, Any]:
    """What `sts.py` has stored of a way: it asks the same scenes."""
    if split == "test" and name in evaluated.get("ways", {}):
        facts, scenes = evaluated["ways"][name], evaluated["scenes"]
        return {"scenes": scenes, "right": facts["right"], "kept": facts["kept"] * scenes}
    return {"scenes": 0, "right": "", "kept": 0}


def by_question(select: Any, k: int, seen: Sequence[TokenView], world: World) -> list[Tensor]:
    """What a selector that reads the question keeps for each question of each scene."""
    kept, scene = [], 0
    for view in seen:
        view = view.only(select.reads | {"hidden_BND"})
        for b in range(view.shape[0]):
            alone = replace(view, **{f: v[b : b + 1] for f, v in vars(view).items() if isinstance(v, Tensor)})
            for question in world.items[scene][1]:
                text, _ = world.words([[question]])
                kept.append(select(replace(alone, text_BTD=text.to(alone.hidden_BND)), k).keep_BN[0].nonzero()[:, 0])
            scene += 1
    return kept


def pair(known: dict[str, Any], run: str, budget: str, kinds: list[list[str]], wanted: list[str]) -> list[Pair]:
    """What the answers of a run of `sts_many.py` are worth beside all others that cover these scenes.

    `kinds` are those of each scene's questions, in order; `wanted`, which of them count.
    """
    name, _, counts = run.partition(":")
    sizes = [len(k) for k in kinds]
    right = known[f"{name}/{budget}"]["ways"][counts or "adaptive"]["right"]
    counted = [torch.tensor([k in wanted or not wanted for k in scene]) for scene in kinds]
    mine = torch.tensor([c == "1" for c in right[: sum(sizes)]]).split(sizes)
    hits = [h[c] for h, c in zip(mine, counted, strict=True)]
    print(f"{budget}: {run} {share(hits):.2f} on {sum(map(len, hits))} questions of {len(sizes)} scenes")
    found = []
    for way, answers in others(known, name, budget, sizes).items():
        other = [h[c] for h, c in zip(answers, counted, strict=True)]
        found.append((budget, way, share(other), against(hits, other)))
    return found


def compare(known: dict[str, Any], run: str, args: argparse.Namespace) -> None:
    """All pairs of the budgets and ways asked for, with Holm's correction over them."""
    kinds = [[q.kind for q in tiny_world.scene(args.split, i, 8).questions] for i in range(args.scenes)]
    rows = [r for b in args.budgets for r in pair(known, run, b, kinds, args.kinds) if r[1] in (args.ways or [r[1]])]
    for (budget, way, percent, d), p in zip(rows, holm([d["p"] for *_, d in rows]), strict=True):
        print(f"  {budget} {way}: {percent:.2f}; {said(d, 2)}, Holm {p:.2g}")


def share(hits: Sequence[Tensor]) -> float:
    """Percent right."""
    return 100 * float(torch.cat(list(hits)).float().mean())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--ways", nargs="+", help="by default all")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--pair", metavar="RUN[:fixed]", help="ask nobody: set a run's stored answers beside others'")
    parser.add_argument("--kinds", nargs="+", default=[], help="of questions, to pair by; by default all")
    parser.add_argument("--out", type=Path, default=Path("out/sts"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/sts.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.pair:
        compare(known(args.results), args.pair, args)
        return
    model = load_model()
    blind = blind_methods(model.config.get_text_config().num_hidden_layers)
    asking = asking_methods()
    names = args.ways or ["full", DISTANCE, *blind, *asking]
    prefix = "rivals" if args.split == "test" else f"rivals-{args.split}"
    _, processor = tiny.load()
    for start in range(0, args.scenes, CHUNK):
        stored = known(args.results)
        entries = {b: dict(stored.get(f"{prefix}/{b}", {}).get("ways", {})) for b in args.budgets}
        size = min(CHUNK, args.scenes - start)
        world = World(model, args.split, size, 8, args.out / "features", start=start)
        seen: list[TokenView] = []
        for budget in args.budgets:
            k, entry = BUDGETS[budget], entries[budget]
            for name in names:
                way = entry.setdefault(name, begun(stored.get(f"evaluate/{budget}", {}), name, args.split))
                if way["scenes"] != start:
                    continue
                if name == "full":
                    kept = [torch.arange(TOKENS)] * size
                    twin = entries[args.budgets[0]][name]
                    if twin is not way and twin["scenes"] > start:
                        entry[name] = dict(twin)
                        continue
                seen = seen or views(model, processor, world)
                merged = None
                if name == DISTANCE:
                    points: Spread = spread(seen, int(ROOM * k + 0.5))
                    limit = stored.get(f"evaluate/{budget}", {}).get("threshold") or points.threshold(k)
                    kept = first(points.order_BT, points.counts(limit))
                elif name in asking:
                    kept = by_question(asking[name](k), k, seen, world)
                elif name != "full":
                    chosen = by_selector(blind[name](k), k, seen)
                    kept, merged = chosen.kept, chosen.merged
                hits = (world.by_question() if name in asking else world).answers(kept, merged)
                way["right"] += "".join(str(int(x)) for x in torch.cat(hits))
                way["kept"] += sum(map(len, kept)) / len(kept) * size
                way["scenes"] += size
                print(start, budget, name, f"{100 * way['right'].count('1') / len(way['right']):.2f}", flush=True)
            store(args.results, {f"{prefix}/{budget}": {"budget": k, "ways": entry}})


if __name__ == "__main__":
    main()
