"""The second instrument, a Qwen2.5-VL in miniature: our selector of many budgets and the published one beside others.

    python benchmarks/sts_second.py train             # out/sts-second; goes on where it stopped
    python benchmarks/sts_second.py train --oneshot 111 --steps 60
    python benchmarks/sts_second.py look              # validation scenes, for each lead
    python benchmarks/sts_second.py train --published --steps 200 --finish 200 --name first
    python benchmarks/sts_second.py train --published --steps 300 --finish 300 --begin out/sts-second/first
    python benchmarks/sts_second.py train --published --covering --begin out/sts-second/published --steps 40 --finish 40
    python benchmarks/sts_second.py look --published --covering --validation 60 --weight 40   # for each weight
    python benchmarks/sts_second.py test --lead 4 --scenes 1000 --asked 400   # dial on validation, test once
    python benchmarks/sts_second.py test --lead 4 --scenes 1000 --asked 400 --covering --weight 40
    python benchmarks/sts_second.py plates            # stored answers, number plates and all else apart

It has 144 visual tokens and no [CLS]: TOPS's relevance is the attention that a token receives in the tower's last
block. Recipe, seeds and ways of asking are those of the first instrument (`sts_many.py`), the stop aside, which is
asked every two picks. The published selector reads a token as the four patches that the merger makes one of, side by
side, and is asked at fixed counts. Figures go to `second/BUDGET` in benchmarks/results/sts.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate import files
from foveate.methods import METHODS
from foveate.pointer import OneShotConfig, OneShotSelector, PointerConfig, PointerSelector
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector
from foveate.pointer.train import Recipe, make_accelerator, train
from foveate.pointer.train.calibrate import calibrated, dialled
from foveate.pointer.train.fit import SHARES
from foveate.selection import TokenView
from foveate.tiny import world
from foveate.tiny.checkpoint import SUMS, file_sum
from foveate.tiny.inputs import to_pixels
from foveate.tiny.vocabulary import GRID
from instruments.llava.attention import register
from instruments.qwen.anatomy import FRAME, MERGE, SIDE
from instruments.qwen.checkpoint import load
from instruments.qwen.evaluate import FOLDER
from instruments.qwen.tower import merged, received, tower_states
from sts_figures import against, among, figures, said, shared
from sts_many import COVERAGE, PUBLISHED, ROOM, learned, short, weigh
from sts_ways import by_selector, first, spread, walked
from sts_world import World

TOKENS = FRAME.tokens
BUDGETS = {"222": 32, "111": 16, "056": 8}
_BATCH = 16


class Second(World):
    """Scenes as the second instrument's LLM receives them."""

    frame = FRAME

    def tokens(self, scenes: Any) -> Tensor:
        """Visual tokens of these scenes, bfloat16."""
        seen = self.features[torch.tensor(scenes)]
        return self.projected(seen) if self.place == "encoder" else seen

    def projected(self, image_BnC: Tensor) -> Tensor:
        """Four patches side by side as the one token that the merger makes of them."""
        merger = self.model.model.visual.merger
        out: Tensor = merger(image_BnC.reshape(-1, image_BnC.shape[-1] // MERGE**2))
        return out.unflatten(0, image_BnC.shape[:2])

    def _seen(self, pixels_BCHW: Tensor) -> Tensor:
        visual = self.model.model.visual
        last_BNC = tower_states(visual, pixels_BCHW)[-1]
        if self.place == "input":
            return merged(visual, last_BNC, GRID)
        return last_BNC.unflatten(1, (SIDE, MERGE, SIDE, MERGE)).transpose(2, 3).flatten(1, 2).flatten(2)

    def _identity(self) -> str:
        return f"qwen-{file_sum(FOLDER / SUMS)[:8]}{'-encoder' * (self.place == 'encoder')}"

    @torch.no_grad()
    def attended(self) -> list[TokenView]:
        """What training-free selectors see of each batch."""
        visual, found = self.model.model.visual, []
        for start in range(0, len(self.scenes), _BATCH):
            part = self.scenes[start : start + _BATCH]
            states = tower_states(visual, to_pixels(np.stack([np.asarray(s.image) for s in part])))
            cls_BN = received(visual, states[-2]).view(-1, SIDE, MERGE, SIDE, MERGE).mean((2, 4)).flatten(1)
            tokens_BND = self.tokens(list(range(start, start + len(part))))
            found.append(TokenView(hidden_BND=tokens_BND, cls_attn_BN=cls_BN.float()))
        return found


def published(args: argparse.Namespace) -> tuple[Any, Recipe, Path]:
    """The untrained published selector, how it is trained, and where."""
    torch.manual_seed(args.seed)
    joint = StepwiseConfig(192 * MERGE**2, 256, BUDGETS["111"] / TOKENS, width=192, group=2, coverage=args.covering)
    recipe = replace(PUBLISHED, steps=args.steps, most=0.35, rate=5e-4, warmup=30, spread=(0.02, 0.4), seed=args.seed)
    if args.begin:
        recipe = replace(recipe, rate=3e-4, warmup=20, hottest=0.82, opening=0.0)
    return StepwiseSelector(joint), recipe, args.out / (args.name or "published" + "-covering" * args.covering)


def made(args: argparse.Namespace, budget: str | None, lead: int = TOKENS) -> tuple[Any, Recipe, Path]:
    """An untrained selector of many budgets, or a one-shot scorer of one; how it is trained, and where."""
    torch.manual_seed(args.seed)
    if budget:
        recipe = Recipe(steps=args.steps, save_every=20, check_every=10_000, seed=args.seed)
        return OneShotSelector(OneShotConfig(256, BUDGETS[budget] / TOKENS)), recipe, args.out / f"oneshot-{budget}"
    config = PointerConfig(256, BUDGETS["111"] / TOKENS, group=2, lead=lead / TOKENS)
    return PointerSelector(config), replace(COVERAGE, seed=args.seed), args.out / f"many{args.seed or ''}"


def trained(args: argparse.Namespace, budget: str | None, lead: int = TOKENS) -> Any:
    """The selector with the weights of its last saved state."""
    selector, _, folder = made(args, budget, lead)
    selector.load_state_dict(learned(folder))
    return selector.eval()


def learn(args: argparse.Namespace, model: Any) -> None:
    """Train, or go on."""
    selector, recipe, folder = published(args) if args.published else made(args, args.oneshot)
    folder.mkdir(parents=True, exist_ok=True)
    asked = (2, "encoder") if args.published else (0, "input")
    scenes = Second(model, "train", args.training, 14, args.out / "features", *asked)
    if args.begin:
        selector.load_state_dict(learned(args.begin), strict=not args.covering)
    selector.fit(*scenes.statistics())
    tick = lambda done: print(done, flush=True) if done % 10 == 0 else None  # noqa: E731
    finish = None if args.oneshot else args.finish
    train(scenes, model, selector, recipe, folder, None, make_accelerator(recipe, cpu=True), tick, finish)


def look(args: argparse.Namespace, model: Any) -> None:
    """Validation scenes at fixed counts for each lead, and of the stop's choosing for each sharpness."""
    if args.published:
        for b, (asked, kept) in pointed(args, model, "val", args.validation).items():
            print(f"{BUDGETS[b]} tokens: {short(asked.answers(kept), asked)}", flush=True)
        return
    val = Second(model, "val", args.validation, 8, args.out / "features")
    for lead in (1, 4, TOKENS) if args.scale is None else (args.lead,):
        selector = trained(args, None, lead)
        path = walked(selector, val, int(2.5 * max(BUDGETS.values())))
        for k in BUDGETS.values():
            if args.scale is None:
                counts = [k] * val.size
            else:
                selector.configure(stop_scale=args.scale)
                now = calibrated(selector, [(path, TOKENS)], k / TOKENS)
                counts = path.standing(now.config, now.config.stop_bias)[:, : int(2.5 * k)].sum(1).tolist()
            right = short(val.answers(first(path.order_BT, counts)), val)
            print(f"lead {lead}, {sum(counts) / val.size:.1f} tokens: {right}", flush=True)


def pointed(args: argparse.Namespace, model: Any, split: str, scenes: int) -> dict[str, tuple[Second, list[Tensor]]]:
    """What the published selector keeps for each question, at fixed counts, by budget; none where it is not trained."""
    selector, _, folder = published(args)
    if not (folder / "state.safetensors").is_file():
        return {}
    selector.load_state_dict(learned(folder))
    weigh(selector, args.weight)
    asked = Second(model, split, scenes, 8, args.out / "features", 1, "encoder")
    asked.astray = args.astray
    path = walked(selector.eval(), asked, max(BUDGETS.values()))
    return {b: (asked, first(path.order_BT, [k] * asked.size)) for b, k in BUDGETS.items()}


def test(args: argparse.Namespace, model: Any) -> None:
    """Every way on the same test scenes, at every budget; answers that are stored stay."""
    val = Second(model, "val", args.validation, 8, args.out / "features")
    scenes = Second(model, "test", args.scenes, 8, args.out / "features")
    selector = trained(args, None, args.lead)
    selector.configure(stop_scale=args.scale or 4.0)
    most = int(ROOM * SHARES[-1] * TOKENS)
    selector = dialled(selector, [(walked(selector, val, most), TOKENS)], SHARES)
    path, plain = walked(selector, scenes, most), list(scenes.views())
    attended = cache(scenes.attended)
    tops = partial(METHODS["tops"], depth=10, stages=1)
    sizes = [len(asked) for _, asked in scenes.items]
    theirs = cache(partial(pointed, args, model, "test", args.asked or args.scenes))
    for budget, k in BUDGETS.items():
        bias, room = selector.at(k / TOKENS).config.stop_bias, int(2.5 * k)
        counts = path.standing(selector.config, bias)[:, :room].sum(1).tolist()
        points = spread(plain, room)
        # Its distance is set on the test scenes, so that its mean count is ours; no answer is read for it.
        far = points.counts(points.threshold(fmean(counts)))
        kept: dict[str, Callable[[], list[Tensor]]] = {
            "ours": lambda c=counts: first(path.order_BT, c),
            "ours, fixed count": lambda k=k: first(path.order_BT, [k] * scenes.size),
            "full": lambda: [torch.arange(TOKENS)] * scenes.size,
            "tops, stage I": lambda k=k: by_selector(tops(keep=k).cuts[0].select, k, attended()).kept,
            "divprune": lambda k=k: by_selector(METHODS["divprune"](keep=k).cuts[0].select, k, plain).kept,
            "farthest, distance threshold": lambda p=points, c=far: first(p.order_BT, c),
        }
        if (made(args, budget)[2] / "state.safetensors").is_file():
            kept["oneshot"] = lambda b=budget, k=k: by_selector(trained(args, b), k, plain).kept
        known = json.loads(args.results.read_text())
        stored = known.get(f"second/{budget}", {})
        ways: dict[str, Any] = stored["ways"] if stored.get("scenes") == args.scenes else {}
        for name in kept.keys() - ways.keys():
            places = kept[name]()
            ways[name] = figures(scenes.answers(places), [len(x) for x in places], scenes)
        name = "published" + " + coverage" * args.covering + ", fixed count" + ", astray" * args.astray
        if name not in ways and (found := theirs().get(budget)):
            asked, places = found
            ways[name] = figures(asked.answers(places), [len(x) for x in places], asked)
        for name, facts in ways.items():
            # The published one may have been asked of the first scenes alone, and keeps as many of each.
            facts.pop("published_minus_it", None)
            for mine, key in (("ours, fixed count", "ours_fixed_minus_it"), ("ours", "ours_minus_it")):
                pair = facts[key] = against(*shared(ways[mine]["right"], facts["right"], sizes))
            print(f"{budget} {name}: {facts['percent']:.1f}, {facts['kept']:.1f} tokens; {said(pair, 2)}", flush=True)
        known[f"second/{budget}"] = {"scenes": args.scenes, "budget": k, "ways": ways}
        files.write(args.results, (json.dumps(dict(sorted(known.items())), indent=1) + "\n").encode())


def plates(args: argparse.Namespace) -> None:
    """Ours minus each way, over the questions that ask for a number plate and over all others."""
    known = json.loads(args.results.read_text())
    for budget in BUDGETS:
        facts = known[f"second/{budget}"]
        asked = [world.scene("test", n, 8).questions for n in range(facts["scenes"])]
        plate = [torch.tensor([q.kind == "plate" for q in of]) for of in asked]
        right = {w: f["right"] for w, f in facts["ways"].items()}
        for name in right.keys() - {"ours"}:
            for of, wanted in (("plates", True), ("others", False)):
                both = shared(right["ours"], right[name], list(map(len, asked)))
                pair = against(*among(both, [p == wanted for p in plate]))
                facts["ways"][name][f"ours_minus_it_{of}"] = pair
                print(f"{budget} {name}, {of}: {said(pair, 2)}", flush=True)
    files.write(args.results, (json.dumps(known, indent=1) + "\n").encode())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["train", "look", "test", "plates"])
    parser.add_argument("--oneshot", choices=BUDGETS, help="train a one-shot scorer for this budget instead")
    parser.add_argument("--published", action="store_true", help="train, or look at, the published selector instead")
    parser.add_argument("--covering", action="store_true", help="our coverage in the published selector")
    parser.add_argument("--weight", type=float, help="of coverage, above 20, instead of the learned one")
    parser.add_argument("--astray", action="store_true", help="let it read another scene's question")
    parser.add_argument("--begin", type=Path, help="a folder whose weights its training begins with")
    parser.add_argument("--name", help="its folder")
    parser.add_argument("--steps", type=int, default=100, help="updates of a one-shot scorer, or the published one")
    parser.add_argument("--finish", type=int, default=60, help="end training after so many updates (ours: of 80)")
    parser.add_argument("--lead", type=int, default=1, help="tokens picked by worth")
    parser.add_argument(
        "--scale", type=float, help="stop_scale in use, 4 by default; look: ask the stop for its counts"
    )
    parser.add_argument("--training", type=int, default=400, help="training scenes")
    parser.add_argument("--validation", type=int, default=120, help="validation scenes")
    parser.add_argument("--scenes", type=int, default=500, help="test scenes")
    parser.add_argument("--asked", type=int, help="test scenes that the published one is asked of")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/sts-second"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/sts.json"))
    args = parser.parse_args()
    if args.work == "plates":
        plates(args)
        return
    torch.set_num_threads(1)
    model, _ = load(FOLDER, dtype=torch.bfloat16)
    model.model.language_model.set_attn_implementation(register())
    {"train": learn, "look": look, "test": test}[args.work](args, model)


if __name__ == "__main__":
    main()
