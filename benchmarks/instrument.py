"""Held-out questions of the embedded world, asked under any plan: what the measuring scripts share.

Plans that cut at the input without reading the text are asked with the image shared between the questions of a scene
(`foveate.tiny.branches`); all others through `attach` and `generate`. Both read whole answers, greedily. What a plan
came to is kept in a file named by all that it depends on, so that a run that was stopped goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from foveate import files
from foveate.data import Example
from foveate.engines.hf import load
from foveate.engines.score import answer_prompt, prepare_examples
from foveate.plan import Plan
from foveate.selection import TokenView
from foveate.tiny import world
from foveate.tiny.branches import TOKENS, right_answers
from foveate.tiny.checkpoint import load_joint
from foveate.tiny.examples import examples
from foveate.tiny.look import Look, look
from foveate.tiny.questions import Question
from foveate.tiny.vocabulary import GRID

SCENES, BATCH, LONGEST = 8, 8, 6
_BLIND = {"hidden_BND", "grid", "cls_attn_BN"}


@dataclass(frozen=True)
class Outcome:
    """What a plan came to: one entry a question, and for input cuts of their own one count a scene."""

    right: list[bool]
    budget: list[float] = field(default_factory=list)
    """Mean visual tokens per layer, a question each."""
    counts: list[int] = field(default_factory=list)


class Split:
    """The first questions of a split: `per_scene` of each scene."""

    def __init__(
        self, name: str, questions: int, per_scene: int, model: str, work: Path, scenes: int | None = None
    ) -> None:
        self.name, self.per_scene, self.work = name, per_scene, work
        self.engine = load(model)
        folder = Path(self.engine.facts.source)
        self.key = [world.fingerprint(), hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest(), name]
        self.scenes: list[Any] = []
        asked = 0
        while len(self.scenes) < scenes if scenes else asked < questions:
            self.scenes.append(world.scene(name, len(self.scenes), per_scene))
            asked += len(self.scenes[-1].questions)
        self.key += [len(self.scenes), per_scene]
        self.examples: list[Example] = examples(range(len(self.scenes)), name, per_scene)
        self._looks: list[Look] = []

    @property
    def facts(self) -> list[tuple[str, str]]:
        """(kind, tier) of each question."""
        return [(q.kind, q.tier) for s in self.scenes for q in s.questions]

    @property
    def looks(self) -> list[Look]:
        """What the vision side sees of the scenes, a few at a time; worked out once."""
        if not self._looks:
            clip = load_joint(self.engine.model, Path(self.engine.facts.source))
            parts = [self.scenes[i : i + SCENES] for i in range(0, len(self.scenes), SCENES)]
            self._looks = [
                look(self.engine.model, clip, part) for part in over(parts, f"looking at {self.name} scenes")
            ]
        return self._looks

    def ask(self, name: str, plan: Plan | None = None, counts: Sequence[int] | None = None) -> Outcome:
        """Everything under one plan; None is all tokens, or with `counts` the so many of each scene by [CLS] attention.

        Raises:
            PlanError: the plan does not fit the model.
        """
        note = [*self.key, plan.to_json() if plan else None, list(counts) if counts else None]
        file = self.work / f"{hashlib.sha256(json.dumps(note).encode()).hexdigest()[:24]}.json"
        if file.is_file():
            return Outcome(**json.loads(file.read_text()))
        if plan is None or (len(plan.cuts) == 1 and plan.cuts[0].at == "input" and plan.reads <= _BLIND):
            outcome = self._by_branches(name, plan, counts)
        else:
            outcome = self._by_attachment(name, plan)
        files.write(file, json.dumps(asdict(outcome)).encode())
        return outcome

    def remember(self, about: Sequence[Any], make: Callable[[], Plan]) -> Plan:
        """A plan that takes time to make, made once."""
        note = [*self.key, *(a.to_json() if isinstance(a, Plan) else a for a in about)]
        file = self.work / f"{hashlib.sha256(json.dumps(note).encode()).hexdigest()[:24]}.plan.json"
        if not file.is_file():
            files.write(file, make().to_json().encode())
        return Plan.from_json(file.read_text())

    @torch.no_grad()
    def _by_branches(self, name: str, plan: Plan | None, counts: Sequence[int] | None) -> Outcome:
        right: list[bool] = []
        kept: list[int] = []
        for seen in over(self.looks, name):
            image_SND, keep_SN = seen.image, torch.ones(len(seen.image), TOKENS, dtype=torch.bool)
            if counts is not None:
                here = torch.tensor(counts[len(kept) : len(kept) + len(keep_SN)])
                order_SN = seen.cls.argsort(dim=1, descending=True, stable=True)
                keep_SN = torch.zeros_like(keep_SN).scatter_(1, order_SN, torch.arange(TOKENS) < here[:, None])
            elif plan is not None:
                keep_SN, image_SND = choose(plan, seen)
            kept += keep_SN.sum(1).tolist()
            right += answers(self.engine.model, seen.asked, image_SND, keep_SN)
        per_question = [float(k) for k, s in zip(kept, self.scenes, strict=True) for _ in s.questions]
        return Outcome(right, per_question, kept)

    def _by_attachment(self, name: str, plan: Plan) -> Outcome:
        right: list[bool] = []
        budget: list[float] = []
        parts = [self.examples[i : i + BATCH] for i in range(0, len(self.examples), BATCH)]
        for part in over(parts, name):
            scored = answer_prompt(self.engine, prepare_examples(self.engine, part), plan, LONGEST)
            right += [s.text == e.answers[0] for s, e in zip(scored, part, strict=True)]
            budget += [s.budget for s in scored]
        return Outcome(right, budget)


def choose(plan: Plan, seen: Look) -> tuple[Tensor, Tensor]:
    """What an input cut keeps of each scene [S, N], and the image tokens with its mixtures in their places."""
    cut = plan.cuts[0]
    k = cut.count(TOKENS)
    view = TokenView(hidden_BND=seen.image, cls_attn_BN=seen.cls, grid=(1, GRID, GRID))
    answer = cut.select(view.only(cut.select.reads), k)
    if answer.mix_BKN is None:
        return answer.keep_BN, seen.image
    image = seen.image.clone()
    image[answer.keep_BN] = (answer.mix_BKN.to(image.dtype) @ seen.image).flatten(0, 1)
    return answer.keep_BN, image


def answers(model: Any, questions: Sequence[Sequence[Question]], image_SND: Tensor, keep_SN: Tensor) -> list[bool]:
    """Right or wrong, in the order of the questions; scenes that keep as many go together."""
    said: dict[int, list[bool]] = {}
    counts = keep_SN.sum(1)
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero().flatten()
        kept = keep_SN[rows].nonzero()[:, 1].view(len(rows), count)
        tokens = image_SND[rows].gather(1, kept[..., None].expand(-1, -1, image_SND.shape[-1]))
        asked = [questions[r] for r in rows.tolist()]
        hits = iter(right_answers(model, tokens, kept, asked).tolist())
        for row, its in zip(rows.tolist(), asked, strict=True):
            said[row] = [next(hits) for _ in its]
    return [hit for row in sorted(said) for hit in said[row]]


def over(parts: Sequence[Any], text: str) -> Any:
    """A bar on stderr."""
    return track(parts, text, console=Console(stderr=True), transient=True)


def pack(right: Sequence[bool]) -> str:
    """Hits as hexadecimal, four a digit, the first highest."""
    bits = "".join("1" if r else "0" for r in right)
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[i : i + 4], 2):x}" for i in range(0, len(bits), 4))


def unpack(text: str, n: int) -> list[bool]:
    """The other way round."""
    return [c == "1" for digit in text for c in f"{int(digit, 16):04b}"][:n]
