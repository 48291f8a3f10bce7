"""Held-out questions of the instrument of pretrained parts, asked under any plan: what the smol scripts share.

Plans that cut once, at the input, without reading the text and leaving attention as it is, are asked with the picture
shared between a scene's questions (`instruments.smol.decoder`); all others through the search's evaluator. Both force
the right answer behind its prompt, in bfloat16: greedy decoding says it just when each of its tokens, its end among
them, is the likeliest.
What a plan came to on each `STRETCH` of scenes is kept in a file named by all that it depends on: a run that was
stopped goes on where it was, and a larger one asks only what is new.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from foveate import attach, files
from foveate.data import Example
from foveate.data import load as load_examples
from foveate.engines.hf import load
from foveate.engines.prompting import prepare_batch
from foveate.plan import Cut, Plan
from foveate.search.evaluator import WHOLE, Evaluator
from foveate.search.outcome import FLOOR
from foveate.search.outcome import Outcome as Scores
from foveate.selection import Selection, TokenView
from instruments.smol import world
from instruments.smol.decoder import Decoder, Watch
from instruments.smol.train import Words, logits, right

BATCH, TOGETHER, STRETCH = 16, 4, 10
_BLIND = frozenset({"hidden_BND", "grid", "cls_attn_BN", "cls_cos_BN", "encoder_BNC", "keys_BNC"})


Fill = Callable[[Sequence[int], int, int, torch.Generator], list[int]]
"""Which others join a question's own tokens: (own, tokens a side, how many, what draws) -> places."""


def by_lot(own: Sequence[int], side: int, count: int, generator: torch.Generator) -> list[int]:
    """Any others."""
    return [i for i in torch.randperm(side**2, generator=generator).tolist() if i not in own][:count]


@dataclass(frozen=True)
class Outcome:
    """What a plan came to: one entry a question."""

    right: list[bool]
    budget: list[float] = field(default_factory=list)
    """Mean visual tokens per layer."""
    likelihood: list[float] = field(default_factory=list)
    """As the search's metric of that name, where it was asked."""
    flops: list[float] = field(default_factory=list)
    """What is left of the visual tokens' operations, where it was asked."""

    @property
    def percent(self) -> float:
        """Right answers."""
        return 100 * sum(self.right) / len(self.right)


class Spy:
    """Keeps one token, and what it was shown."""

    adaptive, reads = False, _BLIND

    def __call__(self, view: TokenView, k: int) -> Selection:
        self.view = view
        b, n = view.shape
        return Selection.of(torch.zeros(b, 1, dtype=torch.long), n)


@dataclass
class Scene:
    """One picture: its examples, their questions, and what the vision side sees of it."""

    examples: list[Example]
    questions: list[world.Question]
    view: TokenView


class Marker(Evaluator):
    """Right or wrong instead of likelihoods."""

    def _ask_full(self) -> Scores:
        """Nobody asks: it would cost as much as a plan."""
        return Scores((), 1.0, 1.0)

    def mark(self, plan: Plan, tokens: int) -> Outcome:
        """What a plan comes to; costs are means over the examples."""
        plan, n = plan.at_depth(self.depth), len(self.examples)
        said, values = [False] * n, [0.0] * n
        budgets: list[float] = []
        flops: list[float] = []
        for batch, forced in zip(self.batches, self.forced, strict=True):
            logits_BTV, report = self._forward(batch, forced, plan, 1)
            want, asked = forced.want_BT.clamp(min=0), forced.want_BT >= 0
            hits = ((logits_BTV.argmax(-1) == want) | ~asked).all(1).tolist()
            p = logits_BTV.softmax(-1).gather(2, want[..., None])[..., 0]
            nats = (((1 - FLOOR) * p + FLOOR).log().where(asked, 0.0).sum(1) / forced.lengths_B).tolist()
            for number, hit, value in zip(batch.numbers, hits, nats, strict=True):
                said[number], values[number] = hit, value
            self._costs(batch, report, budgets, flops)
        return Outcome(said, [fmean(budgets or [1.0]) * tokens] * n, values, [fmean(flops or [1.0])] * n)


class Loaded:
    """The built model, once for all benches: for `attach`, and as the decoder that shares pictures."""

    def __init__(self, model: str) -> None:
        self.engine = load(model, dtype="bfloat16")
        weights = self.engine.model.state_dict()
        inside = "model.language_model."
        llm = {f"model.{k.removeprefix(inside)}": v for k, v in weights.items() if k.startswith(inside)}
        self.decoder = Decoder(self.engine.model.config.text_config, llm, 0)
        self.words = Words(self.engine.processor.tokenizer)
        joint = weights["model.multi_modal_projector.linear_1.weight"].float().numpy().tobytes()
        self.digest = hashlib.sha256(joint).hexdigest()


class Bench:
    """The first `questions` questions of a folder written by `instruments.smol.examples`."""

    def __init__(self, loaded: Loaded, data: Path, work: Path, questions: int | None = None) -> None:
        self.engine, self.decoder, self.words = loaded.engine, loaded.decoder, loaded.words
        self.depth, self.work = self.engine.facts.depth, work
        work.mkdir(parents=True, exist_ok=True)
        self.examples = load_examples(data)[:questions]
        rows = {r["id"]: r for r in map(json.loads, (data / "questions.jsonl").read_text().splitlines())}
        self.key = [loaded.digest, hashlib.sha256((data / "questions.jsonl").read_bytes()).hexdigest()]
        by_picture: dict[Any, list[Example]] = {}
        for e in self.examples:
            by_picture.setdefault(e.images[0], []).append(e)
        self.scenes = []
        for group in over(list(by_picture.values()), "looking"):
            of = ((e, rows[e.id]) for e in group)
            asked = [world.Question(r["group"], e.question, e.answers[0], tuple(map(tuple, r["boxes"]))) for e, r in of]
            self.scenes.append(Scene(group, asked, self.look(group[0])))
        self.tokens = self.scenes[0].view.shape[1]
        self.side = round(self.tokens**0.5)
        self.markers: dict[str, Marker] = {}

    def first(self, scenes: int) -> "Bench":
        """The same, of the first scenes alone."""
        return self.part(0, scenes)

    def part(self, start: int, stop: int) -> "Bench":
        """The same, of some scenes alone."""
        other = copy.copy(self)
        other.scenes = self.scenes[start:stop]
        other.examples = [e for s in other.scenes for e in s.examples]
        return other

    @torch.inference_mode()
    def look(self, example: Example) -> TokenView:
        """Every signal of the vision side at the input."""
        spy = Spy()
        prompt = prepare_batch(self.engine, [(example.pictures(), "?")])
        with attach(self.engine.model, Plan((Cut("input", spy, 1),))):
            self.engine.model(**prompt.inputs, logits_to_keep=1)
        return spy.view

    @property
    def kinds(self) -> list[str]:
        """Of each question."""
        return [q.kind for s in self.scenes for q in s.questions]

    def ask(self, name: str, plan: Plan | None = None) -> Outcome:
        """Everything under one plan; None is all tokens.

        Raises:
            PlanError: the plan does not fit the model.
        """
        return self.joined([plan.to_json() if plan else None], lambda part: part._ask(name, plan))

    def forced(self, plan: Plan = WHOLE) -> Outcome:
        """The same with likelihoods and operations, by the evaluator whatever the plan."""
        return self.joined(["forced", plan.to_json()], lambda part: part._forced(plan))

    def joined(self, note: list[Any], make: Callable[["Bench"], Outcome]) -> Outcome:
        """One outcome of those of every stretch of scenes."""
        parts = [self.part(i, i + STRETCH) for i in range(0, len(self.scenes), STRETCH)]
        found = [asdict(p.kept(note, lambda p=p: make(p))) for p in parts]
        return Outcome(**{k: [x for f in found for x in f[k]] for k in found[0]})

    def kept(self, note: list[Any], make: Any) -> Outcome:
        """An outcome, worked out once."""
        name = hashlib.sha256(json.dumps([*self.key, [e.id for e in self.examples], *note]).encode()).hexdigest()[:24]
        file = self.work / f"{name}.json"
        if not file.is_file():
            files.write(file, json.dumps(asdict(make())).encode())
        return Outcome(**json.loads(file.read_text()))

    def _ask(self, name: str, plan: Plan | None) -> Outcome:
        if plan is None:
            return self.masks(name, [torch.ones(self.tokens, dtype=torch.bool)] * len(self.scenes))
        if (
            len(plan.cuts) == 1
            and plan.cuts[0].at == "input"
            and plan.reads <= _BLIND
            and plan.positions != "contiguous"
            and not getattr(plan.cuts[0].select, "sized", False)  # this path adds nothing to attention
        ):
            cut = plan.cuts[0]
            answers = [cut.select(s.view.only(cut.select.reads), cut.count(self.tokens)) for s in self.scenes]
            return self.masks(name, [a.keep_BN[0] for a in answers], [a.mix_BKN for a in answers])
        return self._forced(plan)

    def _forced(self, plan: Plan) -> Outcome:
        if (first := self.examples[0].id) not in self.markers:
            self.markers[first] = Marker(self.engine, self.examples, "likelihood", BATCH, memory=0.0)
        return self.markers[first].mark(plan, self.tokens)

    def masks(self, name: str, keep: Sequence[Tensor], mixes: Sequence[Tensor | None] | None = None) -> Outcome:
        """One mask of visual tokens a scene."""
        said: list[bool] = []
        budget: list[float] = []
        jobs = [(s, k, None if mixes is None else m) for s, k, m in zip(self.scenes, keep, mixes or keep, strict=True)]
        for scene, mask, mix in over(jobs, name):
            said += self.answers(scene, mask, mix)
            budget += [float(mask.sum())] * len(scene.questions)
        return Outcome(said, budget)

    @torch.inference_mode()
    def answers(
        self,
        scene: Scene,
        mask: Tensor,
        mix: Tensor | None = None,
        picture: Scene | None = None,
        watch: Watch | None = None,
    ) -> list[bool]:
        """Right or wrong for each question of a scene; `picture`: another one to show instead."""
        visual = (picture or scene).view.need("hidden_BND")
        shown = visual[:, mask] if mix is None else mix.to(visual.dtype) @ visual
        kept = mask.nonzero().T
        found, labels = logits(self.decoder, shown, self.words, [scene.questions], kept, self.tokens, watch)
        return right(found, labels)[0][: len(scene.questions)]

    @torch.inference_mode()
    def each(self, name: str, masks: Sequence[Sequence[Tensor]]) -> Outcome:
        """One mask a question: what an oracle needs, and a selector that reads it."""
        said: list[bool] = []
        for scene, of in over(list(zip(self.scenes, masks, strict=True)), name):
            visual, counts, hits = scene.view.need("hidden_BND"), [int(m.sum()) for m in of], [False] * len(of)
            for count in set(counts):
                alike = [i for i, n in enumerate(counts) if n == count]
                for first in range(0, len(alike), TOGETHER):
                    part = alike[first : first + TOGETHER]
                    kept = torch.stack([of[i].nonzero().flatten() for i in part])
                    shown, asked = visual[0][kept], [[scene.questions[i]] for i in part]
                    found = right(*logits(self.decoder, shown, self.words, asked, kept, self.tokens))
                    for i, row in zip(part, found, strict=True):
                        hits[i] = row[0]
            said += hits
        return Outcome(said, [float(m.sum()) for of in masks for m in of])

    def told(self, count: int, fill: Fill) -> list[list[Tensor]]:
        """A mask a question: the tokens that its boxes cover, evenly thinned or filled up to `count`."""
        masks = []
        for number, scene in enumerate(self.scenes):
            generator = torch.Generator().manual_seed(number)
            of = []
            for q in scene.questions:
                need = sorted(q.cells(self.side))
                need = need if len(need) <= count else [need[i * len(need) // count] for i in range(count)]
                mask = torch.zeros(self.tokens, dtype=torch.bool)
                mask[need + fill(need, self.side, count - len(need), generator)] = True
                of.append(mask)
            masks.append(of)
        return masks

    def oracle(self, count: int) -> Outcome:
        """What the question's boxes cover, filled up with random others to `count`."""
        return self.kept(["oracle", count], lambda: self.each(f"oracle {count}", self.told(count, by_lot)))

    def wrong_picture(self) -> Outcome:
        """Every question about the next scene's picture."""
        every = torch.ones(self.tokens, dtype=torch.bool)

        def make() -> Outcome:
            others = [*self.scenes[1:], self.scenes[0]]
            pairs = over(list(zip(self.scenes, others, strict=True)), "wrong picture")
            said = [hit for s, other in pairs for hit in self.answers(s, every, picture=other)]
            return Outcome(said, [float(self.tokens)] * len(said))

        return self.kept(["wrong"], make)

    def by_kind(self, outcome: Outcome) -> dict[str, float]:
        """Per cent right of each kind."""
        hits: dict[str, list[bool]] = {}
        for kind, ok in zip(self.kinds, outcome.right, strict=True):
            hits.setdefault(kind, []).append(ok)
        return {k: round(100 * sum(hits[k]) / len(hits[k]), 1) for k in sorted(hits)}


class Schedule:
    """In each layer a question sees so many of the visual tokens left: those its last prompt token attended to most.

    Attended in the layer before; layers before the first cut see all. What visual tokens see of one another is left
    alone, unlike in a real cut: good enough to search with, for a tenth of the time, as questions share their picture.
    """

    def __init__(self, bench: Bench, scene: Scene, counts: Sequence[int]) -> None:
        self.counts, self.before = counts, len(bench.words.before)
        tail, ids = len(bench.words.after), bench.words.ids
        self.last = torch.tensor([len(ids("\n" + q.text)) + tail - 1 for q in scene.questions])
        self.seen_KN = torch.ones(len(self.last), bench.tokens, dtype=torch.bool)
        self.rated_KN = self.seen_KN.float()

    def __call__(self, layer: int, to_prefix: Tensor, to_own: Tensor) -> Tensor:
        count = self.counts[layer]
        if count < int(self.seen_KN[0].sum()):
            rated = self.rated_KN.masked_fill(~self.seen_KN, -1.0)
            self.seen_KN = torch.zeros_like(self.seen_KN).scatter_(1, rated.topk(count, -1).indices, True)
        hidden = torch.nn.functional.pad(~self.seen_KN, (self.before, 0))
        to_prefix = to_prefix.masked_fill(hidden[None, None, None, :, None], float("-inf"))
        here = torch.arange(len(self.last))
        both = torch.cat([to_prefix, to_own], -1)[0][:, :, here, self.last].float().softmax(-1).mean((0, 1))
        self.rated_KN = both[:, self.before : to_prefix.shape[-1]]
        return to_prefix


def over(parts: Sequence[Any], text: str) -> Any:
    """A bar on stderr."""
    return track(parts, text, console=Console(stderr=True), transient=True)
