"""One selector for many budgets, and the published one: trained, chosen on validation scenes, set beside `sts.json`.

    python benchmarks/sts_many.py train coverage             # out/sts/many; goes on where it stopped
    python benchmarks/sts_many.py train published [--text 0] # out/sts/published; --text 0: blind to the question
    python benchmarks/sts_many.py look coverage              # validation scenes, for each lead
    python benchmarks/sts_many.py gated published            # the noisy path of training beside hard picks
    python benchmarks/sts_many.py rounds published           # does a pick change what is asked for next?
    python benchmarks/sts_many.py test coverage --lead 8     # dial on validation scenes, test scenes once
    python benchmarks/sts_many.py ship coverage
    python benchmarks/sts_many.py test published --scenes 100

`benchmarks/sts.py` has to have asked its ways before: differences are paired with the answers that it stored. Seeds are
fixed. `--finish` ends training early, as the figures that are quoted did. `test` then takes what the run was trained
with (`--text`, `--config`, `--covering`), and `--undialled` asks at fixed counts. The runs of docs/methods/sts.md:

    train coverage --finish 60 [--seed 1 --recipe seed=1 --name seed1]
    train published --text 0                                                       # published-blind
    train published --text 4 --begin out/sts/published-blind --steps 40 --recipe hottest=0.4 rate=5e-4 --config group=4
        --name reads                                                               # and text=0.0 --name shut
    train published --text 0 --covering --begin out/sts/published-blind --steps 40 --recipe hottest=0.4 rate=5e-4
    train published --text 0 --steps 40 --config group=4 [causal=true] --recipe R [--seed 1]      # the ablations; R is
        'scored="last"', 'scored="sum"', beta=1.0 or 0.6 or 0.3, 'spread=[0.025,1.5]', 'spread=[0.1,6.0]', seed=1
    look published --text 0 --validation 120 --undialled --counts 32 64
    train coverage --begin out/sts/many --twice count --finish 60 --recipe hottest=0.4 rate=5e-4 calmest=0.1
        --weight 25 --config lead=0.001736111 --name used                          # trained as it is used
    test coverage --lead 1 --dial 120 --scenes 1000       # then sts_rivals.py --scenes 1000 --ways full "tops, stage I"
        divprune "farthest, distance threshold", and the same with --pair many
    test coverage --name seed1 --lead 1 --dial 120 --scenes 1000
    train published --text 2 --name long --steps 1600 --training 800 --config group=4 --recipe rate=5e-4 warmup=30
        # with --finish 400, 800, 1200 before, each state copied to out/sts/long-1 to -4
    train published --text 2 --name mild --begin out/sts/long-1 --steps 450 --training 800 --config group=4 --recipe
        rate=3e-4 warmup=20 hottest=0.82 opening=0.0 'spread=[0.02,0.4]'          # --finish 225: out/sts/mild-225
        # slow: --steps 600, rate=1.5e-4, no spread; shut-225: mild-225 with text=0.0 in its --config; one02-225 and
        # the like: 'spread=[0.02,0.02]'. Then sts_published.py.
        # mild-s1: seed=1; felt-s1: seed=1 felt=true; felt-s1-100 is its state after --finish 100, and felt-s0, felt-sum
        # the like with seed=0 or 2, 'scored="sum"', 'scored="last"', beta=1.0 or 0.6, lambda halved or doubled,
        # causal=true in --config; gated published --name felt-s1-100 --validation 120
    look published --text 2 --name mild-225 --config group=4 --undialled --counts 32 64
    rounds published --text 2 --name mild-225 --config group=4
    test published --text 2 --name mild-225 --config group=4 --scenes 200 --dial 60 --budgets 056 111 --fixed
        # and --undialled --astray, kept as mild-225-astray
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from foveate import FoveateError, files
from foveate.pointer import PointerConfig, PointerSelector
from foveate.pointer.noise import Denoiser, gate, support
from foveate.pointer.picking import Walk
from foveate.pointer.saved import SHIPPED
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector
from foveate.pointer.stepwise.decoder import History
from foveate.pointer.stepwise.pointer import take
from foveate.pointer.train import Recipe, make_accelerator, state, train
from foveate.pointer.train.calibrate import calibrated, dialled
from foveate.pointer.train.fit import SHARES
from foveate.selection import TokenView
from sts_figures import against, figures, others
from sts_ways import first, walked
from sts_world import World, load_model

TOKENS = 576
BUDGETS = {"222": 128, "111": 64, "056": 32}
ROOM = 2.0
COVERAGE = Recipe(
    steps=80, save_every=20, warmup=8, spread=(0.045, 0.25), most=0.35, room=ROOM, crowd=1.5, early=True, hottest=0.7,
    check_every=80,
)  # fmt: skip
PUBLISHED = Recipe.published(
    steps=200, save_every=20, warmup=5, spread=(0.05, 3.0), most=0.22, everything=False, gone=0.1, rate=1e-3,
    check_every=10_000,
)  # fmt: skip


def made(args: argparse.Namespace, lead: float = 1.0) -> tuple[Any, Recipe]:
    """The untrained selector, and how it is trained."""
    torch.manual_seed(args.seed)
    if args.which == "coverage":
        config = PointerConfig(256, 64 / TOKENS, **{"group": 4, "lead": lead} | pairs(args.config))
        return PointerSelector(config), replace(COVERAGE, **pairs(args.recipe))
    recipe = replace(PUBLISHED, steps=args.steps, **pairs(args.recipe))
    words = 256 if args.text else 0
    joint = StepwiseConfig(192, words, 64 / TOKENS, coverage=args.covering, **{"group": 2} | pairs(args.config))
    return StepwiseSelector(joint), recipe


def pairs(given: list[str]) -> dict[str, Any]:
    """`beta=0.7 scored="sum"` as a dict; values are JSON."""
    return {k: json.loads(v) for k, v in (x.split("=", 1) for x in given)}


def world(args: argparse.Namespace, model: Any, split: str, scenes: int, questions: int) -> World:
    """Scenes as the selector sees them; a training item holds `--text` questions, one in use."""
    place = "input" if args.which == "coverage" else "encoder"
    text = 0 if args.which == "coverage" or not args.text else args.text if split == "train" else 1
    return World(model, split, scenes, questions, args.out / "features", text, place)


def trained(args: argparse.Namespace, lead: float) -> Any:
    """The selector with the weights of its last saved state."""
    selector, _ = made(args, lead)
    selector.load_state_dict(learned(args.folder))
    weigh(selector, args.weight)
    return selector.eval()


def weigh(selector: Any, weight: float | None) -> None:
    """Coverage of this weight, if one is given."""
    if weight:
        # softplus of a number above some twenty is that number.
        part = selector.pointing if isinstance(selector, PointerSelector) else selector.pointer
        part.coverage.data.fill_(weight)


def learned(folder: Path, part: str = "selector") -> dict[str, Tensor]:
    """The weights of the selector, or of another part, in the last saved state."""
    tensors, facts = state.read(folder / "state.safetensors")
    print(f"{facts['step']} updates", flush=True)
    prefix = f"weights/{part}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def learn(args: argparse.Namespace, model: Any) -> None:
    """Train, or go on."""
    selector, recipe = made(args)
    if args.begin:
        missing, strange = selector.load_state_dict(learned(args.begin), strict=False)
        print(f"begins with {args.begin}; new: {missing}, unused: {strange}", flush=True)
    weigh(selector, args.weight)
    scenes = world(args, model, "train", args.training, 14)
    for _, asked in scenes.items:
        asked += [q for q in asked if q.kind == args.twice]
    selector.fit(*scenes.statistics())
    tick = lambda done: print(done, flush=True) if done % 10 == 0 else None  # noqa: E731
    train(scenes, model, selector, recipe, args.folder, None, make_accelerator(recipe, cpu=True), tick, args.finish)


def look(args: argparse.Namespace, model: Any) -> None:
    """Validation scenes at fixed counts, and at counts of the stop's choosing that have the same mean."""
    val = world(args, model, "val", args.validation, 8)
    for lead in args.leads if args.which == "coverage" else [TOKENS]:
        selector = trained(args, lead / TOKENS)
        start = time.process_time()
        path = walked(selector, val, int(1.5 * max(args.counts)))
        print(f"lead {lead}: {1000 * (time.process_time() - start) / val.size:.0f} ms of CPU an item", flush=True)
        for k in args.counts:
            fixed = val.answers(first(path.order_BT, [k] * val.size))
            if args.undialled:
                print(f"lead {lead}, {k} tokens: {short(fixed, val)}", flush=True)
                continue
            try:
                now = calibrated(selector, [(path, TOKENS)], k / TOKENS)
                counts = path.standing(now.config, now.config.stop_bias).sum(1).tolist()
                free = short(val.answers(first(path.order_BT, counts)), val)
            except FoveateError as e:
                free = str(e)
            print(f"lead {lead}, {k} tokens: {short(fixed, val)}; of that mean: {free}", flush=True)


@torch.no_grad()
def gated(args: argparse.Namespace, model: Any) -> None:
    """The noise-gated path that training saw, beside hard picks of the same mean count: right tokens of answers."""
    val, selector = world(args, model, "val", args.validation, 8), trained(args, 1.0)
    recipe, denoiser = made(args)[1], Denoiser(192)
    denoiser.load_state_dict(learned(args.folder, "denoiser"))
    selector.configure(stop_bias=0.0)
    rows = []
    for start in range(0, val.size, 10):
        seen = val.look(range(start, min(start + 10, val.size)))
        c, enc = seen.candidates, selector.encoder
        soft = selector.soft(c, int(recipe.most * TOKENS), recipe.heat(recipe.steps))
        k = round(float(soft.count_B.mean()))
        picks = selector.walk(TokenView(hidden_BND=c.tokens_BND, text_BTD=c.text_BTD), k).order_BT
        hard_BN = torch.zeros_like(soft.alpha_BN).scatter(1, picks, 1.0)
        row = [k]
        for alpha_BN in (soft.alpha_BN, hard_BN):
            chosen = support(alpha_BN, None, int(recipe.most * TOKENS), 0, recipe.gone)
            alpha_BS = alpha_BN.gather(1, chosen.places_BS)
            x_BSD = c.tokens_BND.gather(1, chosen.places_BS.unsqueeze(-1).expand(-1, -1, c.tokens_BND.shape[-1]))
            if alpha_BN is not hard_BN:
                noisy_BSD = gate(x_BSD, alpha_BS, enc.mean_D, enc.std_D, recipe.gate)
                x_BSD = denoiser(noisy_BSD, enc.mean_D, enc.std_D)
            row.append(100 * float(val.loss(seen, x_BSD, alpha_BS, chosen)[1]))
        rows.append(row)
    print("mean count {:.0f}: gated {:.1f}, hard {:.1f}".format(*(fmean(r) for r in zip(*rows, strict=True))))


@torch.no_grad()
def rounds(args: argparse.Namespace, model: Any) -> None:
    """How large the pointer's logits are, and how alike those of different rounds: does a pick change what is next?

    And how alike are those of the first round given another scene's question: is it read?
    """
    val, selector = world(args, model, "val", 20, 8), trained(args, 1.0)
    c = val.look(range(val.size)).candidates
    order = selector.walk(TokenView(hidden_BND=c.tokens_BND, text_BTD=c.text_BTD), 64).order_BT
    pointer, history = selector.pointer, History()
    scene = pointer.scene(c)
    rows, seen = pointer.start(val.size), []
    for start in range(0, order.shape[1], selector.config.group):
        seen.append(pointer.decoder(rows, scene.layers, history)[:, :-1])
        rows = take(scene.memory_BMD, order[:, start : start + selector.config.group])
    print(f"deviation over the tokens {float(seen[0].std(1).mean()):.1f}; correlation with the first round's:")
    for t in (1, len(seen) // 4, len(seen) // 2, len(seen) - 1):
        print(f"round {t + 1}: {alike(seen[0], seen[t]):.2f}")
    if val.text:
        val.astray = True
        other = pointer.scene(val.look(range(val.size)).candidates)
        logit_BN = pointer.decoder(pointer.start(val.size), other.layers, History())[:, :-1]
        print(f"round 1 by another question: {alike(seen[0], logit_BN):.3f}")


def alike(one_BN: Tensor, other_BN: Tensor) -> float:
    """Mean correlation of two rows."""
    pairs = zip(one_BN, other_BN, strict=True)
    return fmean(float(torch.corrcoef(torch.stack(p))[0, 1]) for p in pairs)


def short(hits: list[Tensor], scenes: World) -> str:
    """Accuracy, and that of counting."""
    flat = torch.cat(hits).float()
    counting = torch.tensor([q.kind == "count" for _, asked in scenes.items for q in asked])
    return f"{100 * flat.mean():.1f}, counting {100 * flat[counting].mean():.1f}"


def dial(args: argparse.Namespace, model: Any) -> Any:
    """The trained selector with its dial set on validation scenes, saved."""
    selector = trained(args, args.lead / TOKENS)
    if args.which == "coverage":
        selector.configure(stop_scale=args.scale)
    val = world(args, model, "val", args.dial, 8)
    path = walked(selector, val, int(min(1.0, ROOM * SHARES[-1]) * TOKENS))
    selector = dialled(selector, [(path, TOKENS)], SHARES)
    selector = selector.at(64 / TOKENS)
    selector.save_pretrained(args.folder / "selector")
    return selector


def test(args: argparse.Namespace, model: Any) -> None:
    """Test scenes, once, at every budget."""
    selector = trained(args, args.lead / TOKENS) if args.undialled else dial(args, model)
    scenes = world(args, model, "test", args.scenes, 8)
    scenes.astray = args.astray
    known = json.loads(args.results.read_text())
    per_scene = [sum(len(a) for s, a in scenes.items if s == n) for n in range(args.scenes)]
    most = int((1 if args.undialled else 2.5) * max(BUDGETS[b] for b in args.budgets))
    path: Walk = walked(selector, scenes, most)
    for budget in args.budgets:
        k = BUDGETS[budget]
        sizes_of = {"fixed": [k] * scenes.size} if args.fixed or args.undialled else {}
        if not args.undialled:
            bias = selector.at(k / TOKENS).config.stop_bias
            sizes_of["adaptive"] = path.standing(selector.config, bias)[:, : int(2.5 * k)].sum(1).tolist()
        found: dict[str, Any] = {}
        for name, sizes in sizes_of.items():
            hits = scenes.answers(first(path.order_BT, sizes))
            found[name] = figures(hits, sizes, scenes)
            mine = torch.cat(hits).split(per_scene)
            found[name]["against"] = {
                w: against(mine, o) for w, o in others(known, args.name, budget, per_scene).items()
            }
            print(budget, name, short(hits, scenes), f"{sum(sizes) / len(sizes):.1f} tokens", flush=True)
        known[f"{args.name}/{budget}"] = {"scenes": args.scenes, "lead": args.lead, "ways": found}
        files.write(args.results, (json.dumps(dict(sorted(known.items())), indent=1) + "\n").encode())


def ship(args: argparse.Namespace, _model: Any) -> None:
    """Put the dialled selector into the package, where `sts(keep)` finds it."""
    PointerSelector.from_pretrained(args.folder / "selector").save_pretrained(SHIPPED / "tiny")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["train", "look", "gated", "rounds", "test", "ship"])
    parser.add_argument("which", choices=["coverage", "published"])
    parser.add_argument("--text", type=int, default=4, help="questions a training item, read by the selector; 0: blind")
    parser.add_argument("--covering", action="store_true", help="our coverage in the published selector")
    parser.add_argument("--weight", type=float, help="of coverage, above 20, instead of the learned one")
    parser.add_argument("--twice", help="a kind of question that training asks twice")
    parser.add_argument("--lead", type=int, default=TOKENS, help="tokens picked by worth, of 576")
    parser.add_argument("--leads", type=int, nargs="+", default=[0, 8, 16, TOKENS])
    parser.add_argument("--counts", type=int, nargs="+", default=list(BUDGETS.values()), help="tokens to look at")
    parser.add_argument("--finish", type=int, help="end training after so many updates")
    parser.add_argument("--steps", type=int, default=200, help="updates (published)")
    parser.add_argument("--recipe", nargs="+", default=[], metavar="NAME=JSON", help="recipe fields")
    parser.add_argument("--config", nargs="+", default=[], metavar="NAME=JSON", help="config fields")
    parser.add_argument("--begin", type=Path, help="a folder of --out whose weights training begins with")
    parser.add_argument("--name", help="the folder and the entry in the results")
    parser.add_argument("--training", type=int, default=400, help="training scenes")
    parser.add_argument("--validation", type=int, default=60, help="validation scenes to choose by")
    parser.add_argument("--dial", type=int, default=240, help="validation scenes to set mean counts by")
    parser.add_argument("--scale", type=float, default=4.0, help="stop_scale in use: larger, counts differ less")
    parser.add_argument("--scenes", type=int, default=400, help="test scenes")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--fixed", action="store_true", help="ask at fixed counts too")
    parser.add_argument("--astray", action="store_true", help="let the selector read another scene's question")
    parser.add_argument("--undialled", action="store_true", help="ask at fixed counts alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/sts"))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/sts.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = "many" if args.which == "coverage" else f"published{'' if args.text else '-blind'}"
    args.name = args.name or name + "-covering" * args.covering
    args.folder = args.out / args.name
    args.folder.mkdir(parents=True, exist_ok=True)
    {"train": learn, "look": look, "gated": gated, "rounds": rounds, "test": test, "ship": ship}[args.work](
        args, load_model()
    )


if __name__ == "__main__":
    main()
