"""The learned selectors on the embedded world: trained, calibrated on validation scenes, and quoted on test scenes.

    python benchmarks/sts.py                              # everything, in turn; goes on where it stopped
    python benchmarks/sts.py --only train/sts-111         # one stage
    python benchmarks/sts.py --list                       # the stages
    python benchmarks/sts.py --scenes 400 --only evaluate # all stages whose name begins so

Stages: `train/WAY-BUDGET` trains one selector (features of the training scenes are cached once). `evaluate/BUDGET` asks
the same test questions of every selector and of every training-free method that chooses once, before the LLM and
without the question; `inside/BUDGET` asks the first of them of the other training-free methods. `speed` times one
selection, `pictures` draws the order of picks. Budgets are 222, 111 and 056,
in thousandths of the 576 tokens; the ablations are trained at one of them (--ablate). Selectors go to --out, figures to
benchmarks/results/sts.json, one entry a stage. Seeds are fixed. All that is chosen (the stop's bias and sharpness, the
distance of the adaptive farthest points) is chosen on validation scenes: on many, since counts differ by half their
mean.

A count that follows the content is compared with the same counts shuffled between images, with the same selector at a
fixed count, and with farthest points that have the same counts. Differences are paired by question; their intervals
treat the questions of a scene as one draw.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from foveate import FoveateError, files, tiny
from foveate.engines.hf import load
from foveate.engines.score import answer
from foveate.methods import METHODS, method
from foveate.metrics import exact
from foveate.pointer import OneShotConfig, OneShotSelector, PointerConfig, PointerSelector
from foveate.pointer.picking import Walk
from foveate.pointer.train import Recipe, train
from foveate.pointer.train.calibrate import calibrated
from foveate.pointer.train.fit import build
from foveate.tiny import world as tiny_world
from foveate.tiny.examples import examples
from sts_figures import against, figures, table
from sts_ways import LEARNED, SETTINGS, Chosen, blind_methods, by_selector, first, spread, views, walked
from sts_world import World, load_model

TOKENS = 576
BUDGETS = {"222": 128, "111": 64, "056": 32}
GROUPS = {"222": 4, "111": 2, "056": 2}
STEPS = {"222": 300, "111": 300, "056": 300}
TRAINING, VALIDATION, DIAL = 1600, 160, 1600
SCALES = (0.3, 1.0, 2.0, 4.0)
"""Of the stop; the first is what training ends with."""
QUESTIONS = 14


@dataclass(frozen=True)
class Way:
    """One selector: what differs from the default."""

    config: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    oneshot: bool = False


WAYS = {
    "sts": Way(),
    "oneshot": Way(oneshot=True),
    "no-stop": Way({"stop": "none"}),
    "joint-stop": Way({"stop": "softmax"}),
    "no-coverage": Way({"coverage": False}),
    "no-state": Way({"state": False}),
    "text": Way({"text": True}, {"batch": 24}),
    "no-noise": Way(recipe={"gate": "mean"}),
    "isotropic": Way(recipe={"gate": "isotropic"}),
    "scale-gate": Way(recipe={"gate": "scale"}),
    "straight": Way(recipe={"straight": True}),
    "unperturbed": Way(recipe={"perturb": False}),
    "denoiser": Way(recipe={"denoise": True}),
    "filled": Way(recipe={"gone": 0.0}),
}
MAIN = ("sts", "oneshot")


class Bench:
    """What the stages share: the model, scenes of the three splits, and the file of results."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out, self.results = args, args.out, args.results / "sts.json"
        self.model = load_model()
        self.depth = self.model.config.get_text_config().num_hidden_layers
        self._worlds: dict[tuple[str, bool], World] = {}
        self._views: dict[str, Any] = {}

    def world(self, split: str, text: bool = False) -> World:
        """The scenes of a split."""
        if (split, text) not in self._worlds:
            a = self.args
            count = {"train": a.training, "val": a.validation, "dial": a.dial, "test": a.scenes}[split]
            questions = QUESTIONS if split == "train" else 8
            source = "val" if split == "dial" else split
            self._worlds[split, text] = World(self.model, source, count, questions, self.out / "features", text)
        return self._worlds[split, text]

    def seen(self, split: str) -> Any:
        """Full views of a split's scenes, for training-free selectors."""
        if split not in self._views:
            _, processor = tiny.load()
            self._views[split] = views(self.model, processor, self.world(split))
        return self._views[split]

    def selector(self, way: str, budget: str) -> Any:
        """A trained selector, or None where it is not trained yet."""
        folder = self.out / f"{way}-{budget}" / "selector"
        kind = OneShotSelector if WAYS[way].oneshot else PointerSelector
        return kind.from_pretrained(folder) if (folder / "config.json").is_file() else None

    def note(self, stage: str, entry: Any) -> None:
        """Add a stage's figures to the results."""
        known = json.loads(self.results.read_text()) if self.results.is_file() else {}
        known[stage] = entry
        self.results.parent.mkdir(parents=True, exist_ok=True)
        files.write(self.results, (json.dumps(dict(sorted(known.items())), indent=1) + "\n").encode())


def train_one(bench: Bench, way: str, budget: str) -> dict[str, Any]:
    """Train, calibrate on validation scenes, save."""
    chosen, k = WAYS[way], BUDGETS[budget]
    text = chosen.config.get("text", False)
    scenes, val = bench.world("train", text), bench.world("val", text)
    config: Any
    if chosen.oneshot:
        config = OneShotConfig(features=scenes.tokens([0]).shape[-1], budget=k / TOKENS, **chosen.config)
    else:
        config = PointerConfig(
            features=scenes.tokens([0]).shape[-1],
            budget=k / TOKENS,
            group=GROUPS[budget],
            **{"centred": True} | chosen.config,
        )
    recipe = Recipe(
        **{"steps": bench.args.steps or STEPS[budget], "seed": bench.args.seed, "check_every": 100} | chosen.recipe
    )
    folder = bench.out / f"{way}-{budget}"
    folder.mkdir(parents=True, exist_ok=True)
    selector = build(config, recipe.seed, scenes.statistics())

    def check(now: Any) -> dict[str, float]:
        kept = hard(now, val, k, recipe.room).kept
        hits = torch.cat(val.answers(kept)).float()
        return {"accuracy": float(hits.mean()), "kept": sum(map(len, kept)) / len(kept) / TOKENS}

    with Progress(transient=True) as bar:
        line = bar.add_task(f"training {way}-{budget}", total=recipe.steps)
        curve = train(
            scenes, bench.model, selector, recipe, folder, check, tick=lambda done: bar.update(line, completed=done)
        )
    raw = [r for r in curve if "hard_kept" in r][-1]["hard_kept"]
    if isinstance(selector, PointerSelector):
        selector = dialled(selector, bench.world("dial", text), k, recipe.room)
    selector.save_pretrained(folder / "selector")
    entry = {"curve": curve, "kept_before_calibration": raw * TOKENS, "budget": k}
    if isinstance(selector, PointerSelector):
        entry |= {"stop_bias": selector.config.stop_bias, "stop_scale": selector.config.stop_scale}
    return entry


def dialled(selector: PointerSelector, world: World, k: int, room: float) -> PointerSelector:
    """Its stop as sharp as answers most questions, where the mean count is `k` at each sharpness.

    As it was trained, the stop can take too much from simple pictures; the softer it is read, the less counts differ.
    """
    path = walked(selector, world, int(room * k + 0.5))
    best: tuple[float, PointerSelector] | None = None
    for scale in SCALES if selector.config.stop == "hazard" else (selector.config.stop_scale,):
        selector.configure(stop_scale=scale)
        now = calibrated(selector, [(path, TOKENS)], k / TOKENS)
        counts = path.standing(now.config, now.config.stop_bias).sum(1).tolist()
        right = float(torch.cat(world.answers(first(path.order_BT, counts))).float().mean())
        if best is None or right > best[0]:
            best = right, now
    assert best is not None
    return best[1]


def hard(selector: Any, world: World, k: int, room: float) -> Chosen:
    """What a selector keeps of every item, as in use."""
    kept: list[Tensor] = []
    most = int(room * k + 0.5) if selector.adaptive else k
    for view in world.views():
        kept += [row.nonzero()[:, 0] for row in selector(view, most).keep_BN]
    return Chosen(kept)


def evaluate(bench: Bench, budget: str) -> dict[str, Any]:
    """Every way of choosing at one budget, on the same test questions."""
    k, test = BUDGETS[budget], bench.world("test")
    ways: dict[str, Chosen] = {"full": Chosen([torch.arange(TOKENS)] * test.size)}
    for name, make in blind_methods(bench.depth).items():
        ways[name] = by_selector(make(k), k, bench.seen("test"))
    most = int(Recipe().room * k + 0.5)
    distances = spread(bench.seen("test"), most)
    threshold = spread(bench.seen("dial"), most).threshold(k)
    ways["farthest, distance threshold"] = Chosen(first(distances.order_BT, distances.counts(threshold)))
    sts = bench.selector("sts", budget)
    if sts is not None:
        ways |= around(sts, test, k, most, distances.order_BT)
    for way, chosen in WAYS.items():
        selector = bench.selector(way, budget)
        if selector is None or way == "sts" or chosen.config.get("text"):
            continue
        ways[way] = hard(selector, test, k, Recipe().room)
        if selector.adaptive:
            path = walked(selector, test, most)
            ways[f"{way}, fixed count"] = Chosen(first(path.order_BT, [k] * test.size))
    hits = {name: test.answers(c.kept, c.merged) for name, c in ways.items()}
    counts = {name: [len(x) for x in c.kept] for name, c in ways.items()}
    if (reader := bench.selector("text", budget)) is not None:
        by_question(bench, reader, k, hits, counts)
    facts = {name: figures(hits[name], counts[name], test) for name in hits}
    pairs = {name: against(hits["sts"], hits[name]) for name in hits if sts is not None and name != "sts"}
    return {"budget": k, "scenes": len(test.scenes), "threshold": threshold, "ways": facts, "sts_against": pairs}


def inside(bench: Bench, budget: str) -> dict[str, Any]:
    """Training-free methods that cut inside the LLM or read the question, asked as a user would ask them.

    Fewer scenes, since every question is a run of its own; the first ones of `evaluate`, so that answers pair.
    """
    k, n = BUDGETS[budget], min(bench.args.inside, bench.args.scenes)
    asked = examples(range(n))
    engine = load()
    before = json.loads(bench.results.read_text()).get(f"evaluate/{budget}", {}).get("ways", {}).get("sts")
    rows: dict[str, Any] = {}
    for name in METHODS:
        if name in blind_methods(bench.depth) or name in LEARNED:
            continue
        settings = {"depth": bench.depth} if "depth" in inspect.signature(METHODS[name]).parameters else {}
        try:
            plan = method(name, keep=k / TOKENS, **settings | SETTINGS.get(name, {}))
            said = [a for i in range(0, len(asked), 16) for a in answer(engine, asked[i : i + 16], plan, 6)]
        except FoveateError as e:  # a method that does not reach the budget, or reads what this model lacks
            rows[name] = {"refused": str(e)}
            continue
        right = torch.tensor([exact(a.text, e.answers) > 0 for a, e in zip(said, asked, strict=True)])
        budgets = [a.budget for a in said]
        rows[name] = {"percent": 100 * float(right.float().mean()), "mean_tokens": sum(budgets) / len(budgets)}
        if before is not None:
            mine = torch.tensor([c == "1" for c in before["right"]])[: len(right)]
            per = [int(e.id.split("-")[1]) for e in asked]
            sizes = [per.count(s) for s in dict.fromkeys(per)]
            rows[name]["sts_minus_it"] = against(mine.split(sizes), right.split(sizes))
    return {"budget": k, "scenes": n, "questions": len(asked), "ways": rows}


def around(sts: Any, test: World, k: int, most: int, farthest_BT: Tensor) -> dict[str, Chosen]:
    """STS, and what tells where its gain comes from."""
    path: Walk = walked(sts, test, most)
    counts = path.standing(sts.config, sts.config.stop_bias).sum(1).tolist()
    shuffled = torch.randperm(len(counts), generator=torch.Generator().manual_seed(0)).tolist()
    return {
        "sts": Chosen(first(path.order_BT, counts)),
        "sts, fixed count": Chosen(first(path.order_BT, [k] * len(counts))),
        "sts, its counts shuffled": Chosen(first(path.order_BT, [counts[i] for i in shuffled])),
        "farthest, counts of sts": Chosen(first(farthest_BT, counts)),
    }


def by_question(bench: Bench, selector: Any, k: int, hits: dict[str, Any], counts: dict[str, Any]) -> None:
    """A selector that reads the question chooses for each question; its answers are brought back scene by scene."""
    asked = bench.world("test", text=True)
    kept = hard(selector, asked, k, Recipe().room).kept
    right = asked.answers(kept)
    rows: dict[int, list[Tensor]] = {}
    sizes: dict[int, list[int]] = {}
    for (scene, _), hit, tokens in zip(asked.items, right, kept, strict=True):
        rows.setdefault(scene, []).append(hit)
        sizes.setdefault(scene, []).append(len(tokens))
    hits["text"] = [torch.cat(rows[s]) for s, _ in bench.world("test").items]
    counts["text"] = [sum(sizes[s]) / len(sizes[s]) for s, _ in bench.world("test").items]


def speed(bench: Bench, *_: str) -> dict[str, Any]:
    """Milliseconds of one selection for one image, medians; sequential and one-shot, beside the training-free one."""
    from sts_speed import selections

    ways = {}
    for budget, k in BUDGETS.items():
        ways[budget] = (k, bench.selector("sts", budget), bench.selector("oneshot", budget))
    return selections(ways, bench.seen("val"), Recipe().room)


def pictures(bench: Bench, *_: str) -> dict[str, Any]:
    """Order of picks on a few validation scenes."""
    from sts_figures import draw

    drawn = {}
    for budget, k in BUDGETS.items():
        if (selector := bench.selector("sts", budget)) is None:
            continue
        world = bench.world("val")
        kept = walked(selector, world, int(Recipe().room * k + 0.5))
        file = bench.out / f"picks-{budget}.png"
        draw(world, kept, kept.standing(selector.config, selector.config.stop_bias), file)
        drawn[budget] = file.name
    return drawn


def stages(ablate: str) -> dict[str, Callable[[Bench], Any]]:
    """Name to work, in order."""
    found: dict[str, Callable[[Bench], Any]] = {}
    for budget in ("111", "056", "222"):
        for way in MAIN:
            found[f"train/{way}-{budget}"] = lambda b, w=way, n=budget: train_one(b, w, n)
    for way in WAYS:
        if way not in MAIN:
            found[f"train/{way}-{ablate}"] = lambda b, w=way: train_one(b, w, ablate)
    for budget in ("111", "056", "222"):
        found[f"evaluate/{budget}"] = lambda b, n=budget: evaluate(b, n)
        found[f"inside/{budget}"] = lambda b, n=budget: inside(b, n)
    return found | {"speed": speed, "pictures": pictures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="stages, or what their names begin with")
    parser.add_argument("--list", action="store_true", help="print the stages and end")
    parser.add_argument("--again", action="store_true", help="run stages whose figures are there already")
    parser.add_argument("--scenes", type=int, default=1000, help="test scenes")
    parser.add_argument("--inside", type=int, default=100, help="test scenes for methods inside the LLM")
    parser.add_argument("--training", type=int, default=TRAINING, help="training scenes")
    parser.add_argument("--validation", type=int, default=VALIDATION, help="validation scenes to watch training by")
    parser.add_argument("--dial", type=int, default=DIAL, help="validation scenes to set mean counts by")
    parser.add_argument("--steps", type=int, help="updates; by default so many for each budget")
    parser.add_argument("--ablate", default="056", choices=BUDGETS, help="the budget of the ablations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/sts"), help="selectors, curves and cached features")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work = {
        name: run
        for name, run in stages(args.ablate).items()
        if not args.only or any(name == o or name.startswith(o.rstrip("/") + "/") for o in args.only)
    }
    if args.list or not work:
        print("\n".join(work or stages(args.ablate)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    bench, console = Bench(args), Console(width=200)
    stamp = {"world": tiny_world.fingerprint(), "checkpoint": tiny.checkpoint.file_sum(tiny.path() / "SHA256SUMS")}
    known = json.loads(bench.results.read_text()) if bench.results.is_file() else {}
    if known.get("instrument") not in (None, stamp):
        raise SystemExit(f"{bench.results} and {args.out} belong to another checkpoint; move them away first")
    bench.note("instrument", stamp)
    for name, run in work.items():
        if name in known and not args.again:
            console.print(f"{name}: there already")
            continue
        entry = run(bench)
        bench.note(name, entry)
        if name.startswith("evaluate/"):
            console.print(table(name, entry))
        else:
            console.print(f"{name}: done")


if __name__ == "__main__":
    main()
