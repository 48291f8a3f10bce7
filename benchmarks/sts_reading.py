"""Our selector where it reads the question, taught by what the LLM looks at: on all three instruments.

    python benchmarks/sts_reading.py train smol --model OUT            # out/sts-reading/smol; goes on where it stopped
    python benchmarks/sts_reading.py look smol --model OUT --data VALIDATION --covers 2 5 8 [--dialled]
    python benchmarks/sts_reading.py test smol --model OUT --val VALIDATION --data TEST --cover 8 [--astray | --dialled]
    python benchmarks/sts_reading.py train second --training 1200 --teach 1200      # and look, and test --cover 5
    python benchmarks/sts_reading.py train smol --blind --name blind --model OUT    # then test, with the same two
    python benchmarks/sts_reading.py test smol --side 336 --model OUT576 --begin out/sts-reading/smol --name smol576
        --data TEST576 --cover 8                    # as it is, on 576 tokens
    python benchmarks/sts_reading.py pair smol --data TEST

and the same with `tiny`. OUT, VALIDATION, TEST: as for `sts_smol.py`. Training has two stages: --teach updates by the
attention of --layers (default: those that `sts_gaze.py` names; on smol the best of them, 21, alone), which needs no
answers, then --finish updates by answers, as `sts_many.py` has them. `--cover` is how much a token that is like those
already picked loses, chosen on validation; `--dialled` takes as many as the stop says, set there to the mean.
Differences are paired with the answers that the other scripts stored. Figures go to sts_reading.json in
benchmarks/results; its entry `shorter` is a lesson of 600 updates on 800 scenes for two blocks of 128 (--training 800
--teach 600 --finish 0 --blocks 2 --width 128), and what the same brings --blind, `seed 1` the long one with --seed 1.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from foveate import files
from foveate.pointer import PointerConfig, PointerSelector
from foveate.pointer.picking import Walk
from foveate.pointer.train import Recipe, make_accelerator, train
from foveate.pointer.train.calibrate import calibrated
from foveate.pointer.train.lesson import Lesson
from instruments.smol.examples import chosen
from smol import Loaded
from sts_figures import against, among, figures, said, shared
from sts_gaze import SIDE, large, load_world, small, stored, world_of
from sts_many import COVERAGE, ROOM, learned
from sts_smol import Asked, Training
from sts_ways import first, walked
from sts_world import World

RESULTS = Path(__file__).parent / "results"
TOKENS = {"second": 144, "tiny": 576}
WIDTHS = {"smol": 576, "second": 256, "tiny": 256}
LAYERS = {"smol": (21,), "second": (2, 3, 4, 5, 6, 7, 8, 9), "tiny": (1, 2, 4, 5, 6, 7, 8, 9)}
BUDGETS = {"22.2%": 2 / 9, "11.1%": 1 / 9, "5.6%": 1 / 18}
SMALL = 1 / 12
"""So few of the tokens at most hold what the answer needs: it sits in a small place."""
BLIND = ("sts, fixed count", "ours, fixed count", "many1000, fixed count", "full", "full 100%", "sts, reads, astray",
         "sts, taught blind")  # fmt: skip
_TOGETHER = 48
"""Questions that one update of the first stage sees."""


class Taught:
    """A task whose teacher's maps are known: [items, N]."""

    def __init__(self, world: World, maps_IN: Tensor) -> None:
        self.world, self.maps_IN = world, maps_IN

    def __getattr__(self, name: str) -> Any:
        return getattr(self.world, name)

    def gaze(self, numbers: Sequence[int], _layers: Sequence[int]) -> Tensor:
        """As the library's own task has it."""
        return self.maps_IN[list(numbers)]


def made(args: argparse.Namespace) -> tuple[PointerSelector, Recipe]:
    """The untrained selector, and how it is trained."""
    torch.manual_seed(args.seed)
    n = args.tokens
    told = {k: v for k in ("blocks", "width") if (v := getattr(args, k))}
    config = PointerConfig.reading(WIDTHS[args.which], 1 / 9, text=not args.blind, group=2 if n == 144 else 4, **told)
    return PointerSelector(config), replace(
        COVERAGE,
        batch=16,
        teach=args.teach,
        teachers=tuple(args.layers),
        afterwards=args.afterwards,
        seed=args.seed,
        steps=args.finish or COVERAGE.steps,
    )


def learn(args: argparse.Namespace) -> None:
    """Both stages, or what is left of them."""
    selector, recipe = made(args)
    if args.begin:
        selector.load_state_dict(learned(args.begin))
    layers, cache = args.layers, args.out / f"gaze-{args.entry}-{args.training}-{args.layers}.safetensors"
    if args.which == "smol":
        loaded = Loaded(args.model)
        scenes: Any = Training(loaded, args.training, 8, 1, "input", args.side)
        asked = [chosen("train", s, args.side, 8) for s in range(args.training)]
        look = lambda s: large(loaded.decoder, loaded.words, scenes.tokens([s]), asked[s], layers).sum(1)  # noqa: E731
    else:
        scenes = world_of(args.which, load_world(args.which), "train", args.training, args.out / "features")
        look = lambda s: small(scenes, s, scenes.scenes[s].questions, layers).sum(1)  # noqa: E731
    task = Taught(scenes, torch.cat(stored(cache, args.training, look)))
    selector.fit(*scenes.statistics())
    tick = lambda done: print(done, flush=True) if done % 10 == 0 else None  # noqa: E731
    lesson = replace(recipe.lesson(), batch=_TOGETHER, steps=args.teach, warmup=30)
    (args.folder / "taught").mkdir(exist_ok=True)
    train(task, scenes.model, selector, lesson, args.folder / "taught", None, make_accelerator(lesson, cpu=True), tick,
          trainee_of=Lesson)  # fmt: skip
    if args.finish:
        train(task, scenes.model, selector, recipe, args.folder, None, make_accelerator(recipe, cpu=True), tick,
              args.finish)  # fmt: skip


def trained(args: argparse.Namespace, cover: float | None) -> PointerSelector:
    """The selector with the weights of its last saved state, with this much coverage."""
    selector, _ = made(args)
    selector.load_state_dict(learned(args.begin or (args.folder if args.finish else args.folder / "taught")))
    if cover is not None:
        selector.pointing.coverage.data.copy_(torch.tensor(cover).expm1().log())
    return selector.eval()


class Held:
    """Held-out questions of one instrument, and what is right about each given what is kept."""

    def __init__(self, args: argparse.Namespace, split: str, data: Path | None) -> None:
        self.which = args.which
        if args.which == "smol":
            assert data is not None
            self.asked: Any = Asked(args.loaded, data, args, args.questions)
            self.sizes = self.asked.sizes
            asked = [q for s in self.asked.bench.scenes for q in s.questions]
            self.kinds = [q.kind for q in asked]
            self.needs = [q.cells(args.side // 14) for q in asked]
            return
        scenes = args.validation if split == "val" else args.scenes
        self.asked = world_of(args.which, args.loaded, split, scenes, args.out / "features")
        self.asked.astray = args.astray
        self.sizes = list(Counter(s for s, _ in self.asked.items).values())
        self.kinds = [q.kind for _, (q,) in self.asked.items]
        self.needs = [set(self.asked.frame.covered(q.boxes).nonzero()[0].tolist()) for _, (q,) in self.asked.items]

    def walk(self, selector: PointerSelector, most: int) -> Walk:
        """The first picks, a row a question."""
        return self.asked.walked(selector, most) if self.which == "smol" else walked(selector, self.asked, most)

    def caught(self, kept: list[Tensor]) -> dict[str, float]:
        """Of the tokens that each question needs, or as many as stay, the mean per cent that do, by kind."""
        found: dict[str, list[float]] = {}
        for kind, need, places in zip(self.kinds, self.needs, kept, strict=True):
            if need:
                share = len(need & set(places.tolist())) / min(len(need), len(places))
                found.setdefault(kind, []).append(share)
                found.setdefault("all", []).append(share)
        return {kind: round(100 * fmean(x), 1) for kind, x in sorted(found.items())}

    def row(self, name: str, share: str, kept: list[Tensor]) -> dict[str, Any]:
        """What came of it, in the form of the instrument's other files."""
        if self.which == "smol":
            row: dict[str, Any] = self.asked.row(name, share, self.asked.outcome(f"{name} {share}", kept))
            return row
        row = figures(self.asked.answers(kept), [len(k) for k in kept], self.asked)
        print(f"{name} {share}: {row['percent']:.1f} at {row['kept']:.1f}", flush=True)
        return row | {"hits": row.pop("right")}


def counted(args: argparse.Namespace, val: Walk, selector: PointerSelector, path: Walk, budget: float) -> list[int]:
    """How many picks of each row stand: all alike, or, with --dialled, until the stop that validation's walk sets."""
    n = args.tokens
    if not args.dialled:
        return [round(budget * n)] * len(path.order_BT)
    most = int(ROOM * budget * n)
    selector.configure(stop_scale=args.scale)
    bias = calibrated(selector, [(Walk(val.order_BT[:, :most], val.stop_BT[:, :most]), n)], budget).config.stop_bias
    return path.standing(selector.config, bias)[:, :most].sum(1).tolist()


def look(args: argparse.Namespace) -> None:
    """Validation questions for each weight of coverage."""
    held = Held(args, "val", args.data)
    for cover in args.covers:
        selector = trained(args, cover)
        path = held.walk(selector, int(ROOM * max(args.budgets) * args.tokens))
        for budget in args.budgets:
            counts = counted(args, path, selector, path, budget)
            row = held.row(f"coverage {cover}", f"{budget:.1%}", first(path.order_BT, counts))
            print(f"  {row.get('kinds')}, {min(counts)} to {max(counts)} tokens", flush=True)


def test(args: argparse.Namespace) -> None:
    """Test questions at fixed counts; stored answers stay."""
    held = Held(args, "test", args.data)
    known = json.loads(args.results.read_text()) if args.results.is_file() else {}
    entry = known.setdefault(args.entry, {"ways": {}, "pairs": {}})
    entry |= {"cover": args.cover, "layers": args.layers, "teach": args.teach, "finish": args.finish}
    selector = trained(args, args.cover)
    most = int(ROOM * max(BUDGETS.values()) * args.tokens)
    path = held.walk(selector, most)
    val = Held(args, "val", args.val).walk(selector, most) if args.dialled else path
    name = "sts, taught blind" if args.blind else "sts, reads" + ", astray" * args.astray + ", stops" * args.dialled
    for share, budget in BUDGETS.items():
        kept = first(path.order_BT, counted(args, val, selector, path, budget))
        entry.setdefault("caught", {})[f"{name} {share}"] = held.caught(kept)
        if budget in args.budgets or not args.budgets:
            entry["ways"][f"{name} {share}"] = held.row(name, share, kept)
            entry["questions of each scene"] = "".join(map(str, held.sizes))
            entry["in a small place"] = "".join("01"[0 < len(n) <= SMALL * args.tokens] for n in held.needs)
        files.write(args.results, (json.dumps(known, indent=1) + "\n").encode())
    selector.save_pretrained(args.folder / "selector")
    pair(args)


def others(which: str, share: str) -> dict[str, str]:
    """Stored answers of other ways at this budget, a character a question."""
    if which.startswith("smol"):
        sources = ("smol_576.json",) if which == "smol576" else ("smol.json", "sts_smol.json")
        ways = {n: w for f in sources for n, w in json.loads((RESULTS / f).read_text())["ways"].items()}
        named = {n: w for n, w in ways.items() if n.endswith(f" {share}") or n == "full 100%"}
        return {n.removesuffix(f" {share}"): w["hits"] for n, w in named.items()}
    known, at = json.loads((RESULTS / "sts.json").read_text()), {"22.2%": "222", "11.1%": "111", "5.6%": "056"}[share]
    places = [f"second/{at}"] if which == "second" else [f"rivals/{at}", f"many/{at}"]
    return {n: w["right"] for p in places for n, w in known.get(p, {"ways": {}})["ways"].items()}


def pair(args: argparse.Namespace) -> None:
    """Every stored row of ours against every other way, over the questions that both were asked."""
    known = json.loads(args.results.read_text())
    entry = known[args.entry]
    entry |= {"pairs": {}, "small": {}}
    sizes = list(map(int, entry["questions of each scene"]))
    tight = torch.tensor([c == "1" for c in entry["in a small place"]]).split(sizes)
    for share in BUDGETS:
        ways = others(args.entry, share)
        ways |= {n.removesuffix(f" {share}"): w["hits"] for n, w in entry["ways"].items() if n.endswith(f" {share}")}
        if (mine := ways.get("sts, reads")) is None:
            continue
        for name, theirs in ways.items():
            if name == "sts, reads":
                continue
            both = shared(mine, theirs, sizes)
            n = sum(map(len, both[0]))
            entry["pairs"][f"{name} {share}"] = found = against(*both) | {"questions": n}
            if name in BLIND:
                print(f"{share}: ours - {name}: {said(found)}, {n} questions", flush=True)
                some = among(both, tight)
                entry["small"][f"{name} {share}"] = against(*some) | {
                    "questions": sum(map(len, some[0])),
                    "ours": _percent(some[0]),
                    "theirs": _percent(some[1]),
                }
    files.write(args.results, (json.dumps(known, indent=1) + "\n").encode())


def _percent(right: Sequence[Tensor]) -> float:
    return round(100 * float(torch.cat(right).float().mean()), 2)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["train", "look", "test", "pair"])
    parser.add_argument("which", choices=list(WIDTHS))
    parser.add_argument("--model", help="smol: the built model")
    parser.add_argument("--data", type=Path, help="smol: questions to answer")
    parser.add_argument("--val", type=Path, help="smol: validation questions")
    parser.add_argument("--astray", action="store_true", help="let the selector read another scene's question")
    parser.add_argument("--blind", action="store_true", help="the same lesson for one that reads no question")
    parser.add_argument("--side", type=int, default=SIDE, help="smol: pixels of its pictures; 336 has 576 tokens")
    parser.add_argument("--begin", type=Path, help="a folder whose weights are asked, or trained on")
    parser.add_argument("--scale", type=float, default=4.0, help="stop_scale in use: larger, counts differ less")
    parser.add_argument("--dialled", action="store_true", help="look, test: at counts of the stop's choosing")
    parser.add_argument("--teach", type=int, default=2000, help="updates of the first stage")
    parser.add_argument("--finish", type=int, default=60, help="updates of the second; 0: none")
    parser.add_argument("--afterwards", type=float, default=0.1, help="how fast that moves what the first taught")
    parser.add_argument("--layers", type=int, nargs="+", help="which teach")
    parser.add_argument("--cover", type=float, default=5.0, help="test: the weight of coverage")
    parser.add_argument("--covers", type=float, nargs="+", default=[3.0, 5.0, 8.0], help="look: weights of coverage")
    parser.add_argument("--budgets", type=float, nargs="+", default=[], help="shares to keep")
    parser.add_argument("--training", type=int, default=2400, help="training scenes")
    parser.add_argument("--validation", type=int, default=120, help="validation scenes")
    parser.add_argument("--scenes", type=int, default=1000, help="test scenes")
    parser.add_argument("--questions", type=int, help="smol: of --data, the first so many")
    parser.add_argument("--blocks", type=int, help="of the selector's encoder; by default as trained by the library")
    parser.add_argument("--width", type=int, help="of the selector; the same")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="the folder")
    parser.add_argument("--work", type=Path, default=Path("out/smol"))
    parser.add_argument("--out", type=Path, default=Path("out/sts-reading"))
    parser.add_argument("--results", type=Path, default=RESULTS / "sts_reading.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.layers = args.layers or list(LAYERS[args.which])
    args.tokens = (args.side // 14) ** 2 if args.which == "smol" else TOKENS[args.which]
    args.entry = "smol576" if args.which == "smol" and args.side == 336 else args.which
    if args.blind and args.astray:
        parser.error("--astray is another question to read, and --blind reads none")
    args.folder = args.out / (args.name or args.which)
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.act == "look":
        args.budgets = args.budgets or [1 / 9]
    if args.act in ("look", "test"):
        args.loaded = Loaded(args.model) if args.which == "smol" else load_world(args.which)
    {"train": learn, "look": look, "test": test, "pair": pair}[args.act](args)


if __name__ == "__main__":
    main()
