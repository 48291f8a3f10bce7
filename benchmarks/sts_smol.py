"""Selectors of many budgets on the instrument of pretrained parts, ours and the published one, beside what needs none.

    python -m instruments.smol.features train 600             # the tower's features of the training scenes
    python benchmarks/sts_smol.py train coverage --finish 60 --model OUT   # out/sts-smol; goes on where it stopped
    python benchmarks/sts_smol.py look coverage --model OUT --data VALIDATION         # fixed counts, for each lead
    python benchmarks/sts_smol.py test coverage --lead 1 --model OUT --val VALIDATION --data TEST
    python benchmarks/sts_smol.py train published --text 0 --name mild --steps 60 --finish 40 --model OUT
        --recipe 'spread=[0.02,0.4]' rate=3e-4      # then test published, with the same --text and --name
    python benchmarks/sts_smol.py train published --text 0 --covering --begin out/sts-smol/mild --name covering
        --steps 40 --finish 21 --recipe 'spread=[0.02,0.4]' rate=3e-4 hottest=0.4 --model OUT   # --weight 200
    python benchmarks/sts_smol.py pair coverage --data TEST      # stored answers once more with those of smol.json

OUT, VALIDATION, TEST: as for `smol_methods.py`, whose questions these are and with whose answers (smol.json) ours are
paired. Recipe and seeds are those of the second instrument (`sts_second.py`), which has 144 tokens too. The dial is
set on validation questions. Farthest points stop at one distance for all pictures, set so that its mean count is ours;
no answer is read for it. Figures go to benchmarks/results/sts_smol.json, in smol.json's form.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from foveate import files
from foveate.engines.prompting import prepare_batch
from foveate.pointer import PointerConfig, PointerSelector
from foveate.pointer.picking import Walk
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector
from foveate.pointer.train import Recipe, make_accelerator, train
from foveate.pointer.train.calibrate import dialled
from foveate.pointer.train.fit import SHARES as DIAL
from foveate.selection import TokenView
from instruments.smol import features
from instruments.smol.examples import chosen
from instruments.smol.train import logits
from smol import Bench, Loaded, Outcome, Scene
from smol_methods import SHARES, scored
from sts_figures import against, said, shared
from sts_many import COVERAGE, PUBLISHED, ROOM, learned, pairs, weigh
from sts_ways import Spread, first, spread
from sts_world import World, items

SIDE, TOKENS = 168, 144
COUNTS = {share: round(keep * TOKENS) for share, keep in SHARES.items()}
RIVALS = ("tops I", "divprune", "fastervlm")
RESULTS = Path(__file__).parent / "results"


class Training(World):
    """Scenes of the training split as this model sees them."""

    def __init__(self, loaded: Loaded, scenes: int, questions: int, text: int, place: str, side: int = SIDE) -> None:
        self.model, self.decoder, self.language = loaded.engine.model, loaded.decoder, loaded.words
        self.text, self.place, self.astray = text, place, False
        self.scenes = list(range(scenes))
        seen_SLNC = features.load("train", side, scenes)[:scenes]
        if len(seen_SLNC) < scenes:
            more = f"python -m instruments.smol.features train {scenes} --image-size {side}"
            raise SystemExit(f"{len(seen_SLNC)} scenes: {more}")
        self.features = seen_SLNC.transpose(1, 2).flatten(2)
        self.items = items([chosen("train", n, side, questions) for n in self.scenes], text or questions)

    def said(self, image_BnD: Tensor, places_Bn: Tensor, asked: Any) -> tuple[Tensor, Tensor]:
        found, labels = logits(self.decoder, image_BnD, self.language, asked, places_Bn, self.features.shape[1])
        return found, labels[labels != -100]

    def ids(self, text: str) -> list[int]:
        return self.language.ids("\n" + text)


def made(args: argparse.Namespace, lead: int = TOKENS) -> tuple[Any, Recipe]:
    """The untrained selector, and how it is trained."""
    torch.manual_seed(args.seed)
    budget = COUNTS["11.1%"] / TOKENS
    if args.which == "coverage":
        config = PointerConfig(576, budget, group=2, lead=lead / TOKENS)
        return PointerSelector(config), replace(COVERAGE, steps=args.steps or 80, seed=args.seed, **pairs(args.recipe))
    joint = StepwiseConfig(1152, 576 if args.text else 0, budget, width=192, group=2, coverage=args.covering)
    return StepwiseSelector(joint), replace(
        PUBLISHED, steps=args.steps or 200, seed=args.seed, most=0.35, **pairs(args.recipe)
    )


def trained(args: argparse.Namespace, lead: int) -> Any:
    """The selector with the weights of its last saved state."""
    selector, _ = made(args, lead)
    selector.load_state_dict(learned(args.folder))
    weigh(selector, args.weight)
    return selector.eval()


def learn(args: argparse.Namespace, loaded: Loaded) -> None:
    """Train, or go on."""
    selector, recipe = made(args)
    if args.begin:
        selector.load_state_dict(learned(args.begin), strict=not args.covering)
    text = args.text if args.which == "published" else 0
    scenes = Training(loaded, args.training, 8, text, selector.place if args.which == "published" else "input")
    selector.fit(*scenes.statistics())
    tick = lambda done: print(done, flush=True) if done % 5 == 0 else None  # noqa: E731
    train(
        scenes, scenes.model, selector, recipe, args.folder, None, make_accelerator(recipe, cpu=True), tick, args.finish
    )


class Asked:
    """Questions of a bench, and what a selector picks for the picture, or the question, of each."""

    def __init__(self, loaded: Loaded, data: Path, args: argparse.Namespace, questions: int | None) -> None:
        self.loaded, self.args = loaded, args
        self.bench = Bench(loaded, data, args.work, questions)
        self.sizes = [len(s.questions) for s in self.bench.scenes]

    @torch.no_grad()
    def walked(self, selector: Any, most: int) -> Walk:
        """The first `most` picks, a row a question."""
        paths = [selector.walk(view, most) for view in self.views(selector)]
        return Walk(torch.cat([p.order_BT for p in paths]), torch.cat([p.stop_BT for p in paths]))

    def views(self, selector: Any) -> list[TokenView]:
        """What a selector sees, question by question; one that reads none sees the same for all of a picture's."""
        embed, words = self.loaded.decoder.embed, self.loaded.words
        found = []
        for number, s in enumerate(self.bench.scenes):
            seen = s.view.need("hidden_BND").clone() if selector.place == "input" else self.tower(s)
            other = self.bench.scenes[number - 1] if self.args.astray else s
            for i in range(len(s.questions)):
                asked = other.questions[i % len(other.questions)].text
                text = embed[words.ids("\n" + asked)][None] if selector.asks else None
                found.append(TokenView(hidden_BND=seen, text_BTD=text))
        return found

    def tower(self, scene: Scene) -> Tensor:
        """What the projector receives of a picture: three layers of the tower side by side."""
        prompt = prepare_batch(self.loaded.engine, [(scene.examples[0].pictures(), "?")])
        pixels = prompt.inputs["pixel_values"].to(torch.bfloat16)
        seen_BLNC = features.features_BLNC(self.loaded.engine.model.model.vision_tower, pixels)
        return seen_BLNC.transpose(1, 2).flatten(2)

    def spread(self, most: int) -> Spread:
        """Farthest points, a row a question."""
        points = spread([s.view for s in self.bench.scenes], most)
        rows = torch.tensor([i for i, n in enumerate(self.sizes) for _ in range(n)])
        return Spread(points.order_BT[rows], points.near_BT[rows])

    def outcome(self, name: str, kept: list[Tensor]) -> Outcome:
        """Answers, given the tokens that stay for each question."""
        masks = torch.stack([torch.zeros(self.bench.tokens, dtype=torch.bool).index_fill_(0, k, True) for k in kept])
        of = masks.split(self.sizes)
        if all(bool((part == part[:1]).all()) for part in of):
            return self.bench.masks(name, [part[0] for part in of])
        return self.bench.each(name, [list(part) for part in of])

    def row(self, name: str, share: str, outcome: Outcome) -> dict[str, Any]:
        """As in smol.json."""
        row: dict[str, Any] = {"name": name, "share": share, "plan": None} | scored(outcome.right)
        row |= {"budget": round(fmean(outcome.budget) / self.bench.tokens, 4), "kinds": self.bench.by_kind(outcome)}
        print(f"{name} {share}: {row['percent']} at {row['budget']:.1%} of {row['questions']}", flush=True)
        return row | {"hits": "".join("01"[r] for r in outcome.right)}


def standing(selector: Any, path: Walk, share: str) -> list[int]:
    """How many picks of each row the dial lets stand at this budget."""
    bias = selector.at(SHARES[share]).config.stop_bias
    return path.standing(selector.config, bias)[:, : int(2.5 * COUNTS[share])].sum(1).tolist()


def set_dial(args: argparse.Namespace, val: Asked) -> Any:
    """The trained selector with its dial set on validation questions."""
    selector = trained(args, args.lead)
    selector.configure(stop_scale=args.scale)
    return dialled(selector, [(val.walked(selector, int(ROOM * DIAL[-1] * TOKENS)), TOKENS)], DIAL)


def look(args: argparse.Namespace, loaded: Loaded) -> None:
    """Validation questions at fixed counts for each lead; with --dialled, at counts of the stop's choosing."""
    val = Asked(loaded, args.data, args, args.questions)
    for lead in args.leads if args.which == "coverage" else [TOKENS]:
        args.lead = lead
        selector = set_dial(args, val) if args.dialled else trained(args, lead)
        path = val.walked(selector, int(2.5 * max(COUNTS.values())))
        for share, k in COUNTS.items():
            counts = standing(selector, path, share) if args.dialled else [k] * len(path.order_BT)
            val.row(f"lead {lead}", share, val.outcome(f"lead {lead}", first(path.order_BT, counts)))


def test(args: argparse.Namespace, loaded: Loaded) -> None:
    """Ours and farthest points at the same mean, fixed counts of ours or the published one; stored answers stay."""
    ours = args.which == "coverage"
    selector = set_dial(args, Asked(loaded, args.val, args, None)) if ours else trained(args, TOKENS)
    selector.save_pretrained(args.folder / "selector")
    asked = Asked(loaded, args.data, args, args.questions)
    room = int(2.5 * max(COUNTS.values()))
    path = asked.walked(selector, room)
    known = json.loads(args.results.read_text()) if args.results.is_file() else {"ways": {}, "pairs": {}}
    mine = "sts" if ours else "sts, published" + " + coverage" * args.covering + ", astray" * args.astray
    for share, k in COUNTS.items():
        ways: dict[str, Callable[[], list[Tensor]]] = {
            f"{mine}, fixed count": lambda k=k: first(path.order_BT, [k] * len(path.order_BT)),
        }
        if ours:
            counts = standing(selector, path, share)
            ways[mine] = lambda c=counts: first(path.order_BT, c)
            points = asked.spread(int(2.5 * k))
            far = points.counts(points.threshold(fmean(counts)))
            ways["farthest to one distance"] = lambda p=points, c=far: first(p.order_BT, c)
        for name, make in ways.items():
            if known["ways"].get(f"{name} {share}", {}).get("questions") != sum(asked.sizes):
                known["ways"][f"{name} {share}"] = asked.row(name, share, asked.outcome(f"{name} {share}", make()))
        pair(known, asked.sizes, share, args.rivals)
        files.write(args.results, (json.dumps(known, indent=1) + "\n").encode())


def again(args: argparse.Namespace) -> None:
    """Pair stored answers anew, with those that the rivals have by now."""
    known = json.loads(args.results.read_text()) | {"pairs": {}}
    pictures = [json.loads(line)["image"] for line in (args.data / "questions.jsonl").read_text().splitlines()]
    for share in COUNTS:
        pair(known, list(Counter(pictures).values()), share, args.rivals)
    files.write(args.results, (json.dumps(known, indent=1) + "\n").encode())


def pair(known: dict[str, Any], sizes: list[int], share: str, rivals: Path) -> None:
    """Ours minus every other way of this budget, over the questions that both were asked."""
    ways = json.loads(rivals.read_text())["ways"]
    others = {f"{n} {share}": ways[f"{n} {share}"] for n in RIVALS} | {"full 100%": ways["full 100%"]}
    others |= {n: w for n, w in known["ways"].items() if n.endswith(f" {share}")}
    right = {n: w["hits"] for n, w in others.items()}
    published = (f"sts, published{more}, fixed count {share}" for more in ("", " + coverage"))
    for mine in (f"sts {share}", f"sts, fixed count {share}", *published):
        for name in [n for n in right if mine in right and n != mine]:
            of = shared(right[mine], right[name], sizes)
            found = known["pairs"][f"{mine} - {name}"] = against(*of) | {"questions": sum(map(len, of[0]))}
            print(f"{mine} - {name}: {said(found)}, {found['questions']} questions", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("act", choices=["train", "look", "test", "pair"])
    parser.add_argument("which", choices=["coverage", "published"])
    parser.add_argument("--model", help="not needed to pair")
    parser.add_argument("--data", type=Path, help="questions to answer")
    parser.add_argument("--val", type=Path, help="questions that set the dial")
    parser.add_argument("--text", type=int, default=2, help="published: questions an item, read; 0: blind")
    parser.add_argument("--covering", action="store_true", help="our coverage in the published selector")
    parser.add_argument("--weight", type=float, help="of coverage, above 20, instead of the learned one")
    parser.add_argument("--begin", type=Path, help="a folder whose weights training begins with")
    parser.add_argument("--astray", action="store_true", help="let the selector read another scene's question")
    parser.add_argument("--steps", type=int, help="updates that the schedule is made for: 80, published 200")
    parser.add_argument("--finish", type=int, help="end training after so many of them")
    parser.add_argument("--recipe", nargs="+", default=[], metavar="NAME=JSON", help="recipe fields")
    parser.add_argument("--lead", type=int, default=TOKENS, help="tokens picked by worth")
    parser.add_argument("--leads", type=int, nargs="+", default=[1, 4, TOKENS])
    parser.add_argument("--scale", type=float, default=4.0, help="stop_scale in use: larger, counts differ less")
    parser.add_argument("--dialled", action="store_true", help="look: at counts of the stop's choosing")
    parser.add_argument("--training", type=int, default=600, help="training scenes")
    parser.add_argument("--questions", type=int, help="of --data, the first so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="the folder")
    parser.add_argument("--work", type=Path, default=Path("out/smol"))
    parser.add_argument("--out", type=Path, default=Path("out/sts-smol"))
    parser.add_argument("--results", type=Path, default=RESULTS / "sts_smol.json")
    parser.add_argument("--rivals", type=Path, default=RESULTS / "smol.json", help="where their answers are")
    args = parser.parse_args()
    if args.act == "pair":
        again(args)
        return
    torch.set_num_threads(1)
    args.folder = args.out / (args.name or args.which)
    args.folder.mkdir(parents=True, exist_ok=True)
    {"train": learn, "look": look, "test": test}[args.act](args, Loaded(args.model))


if __name__ == "__main__":
    main()
