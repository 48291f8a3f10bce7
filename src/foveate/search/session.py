"""What every search does: split the data, ask through the study, and judge the result on the half it did not see."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import torch

from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.hf.families import family
from foveate.plan import Plan
from foveate.search.evaluator import Evaluator
from foveate.search.halves import Split
from foveate.search.outcome import MOST, Outcome, losses
from foveate.search.promise import Promise, promise
from foveate.search.study import Asked, Study


@dataclass(frozen=True)
class Facts:
    """Prompts of a data set.

    Args:
        tokens: visual tokens of a prompt (the median).
        same: whether all have as many.
        text: its other tokens (the median).
    """

    tokens: int
    same: bool
    text: int


class Half:
    """One half of the data, asked through the study; the model runs only for what the study does not know."""

    def __init__(
        self,
        name: str,
        examples: list[Example],
        study: Study,
        make: Callable[[list[Example]], Evaluator],
        watch: Callable[[float, float], None] = lambda loss, cost: None,
    ) -> None:
        self.name, self.examples, self.study, self._make, self._watch = name, examples, study, make, watch
        self._evaluator: Evaluator | None = None

    @property
    def evaluator(self) -> Evaluator:
        """Made when it is first needed: it encodes every picture."""
        if self._evaluator is None:
            self._evaluator = self._make(self.examples)
        return self._evaluator

    def full(self) -> Outcome:
        """The full model's."""
        return self._ask([Asked(f"{self.name}: full", None)], 1)[0]

    def evaluate(self, plans: Sequence[Plan], shared: int = 1) -> list[Outcome]:
        """Outcomes of plans; `shared` as in `Evaluator.evaluate`."""
        found = self._ask([Asked(f"{self.name}: {_key(p)}", p.to_json(indent=None)) for p in plans], shared)
        for outcome in found:
            self._watch(fmean(self.losses(outcome)), outcome.flops)
        return found

    def losses(self, plan: Outcome) -> list[float]:
        """What each example lost."""
        return losses(self.full(), plan)

    def _ask(self, asked: list[Asked], shared: int) -> list[Outcome]:
        def run(data: Any, beat: Callable[[], None]) -> dict[str, Any]:
            evaluator = self.evaluator
            evaluator.progress, before = (lambda: (beat(), before())[0]), evaluator.progress  # type: ignore[func-returns-value]
            try:
                out = evaluator.full if data is None else evaluator.evaluate(Plan.from_json(data), shared)
            finally:
                evaluator.progress = before
            loss = fmean(losses(evaluator.full, out))
            scores = [round(s, 6) for s in out.scores]
            return {"loss": loss, "cost": out.flops, "budget": out.budget, "flops": out.flops, "scores": scores}

        found = self.study.ask(asked, run)
        return [Outcome(tuple(r["scores"]), r["budget"], r["flops"]) for r in found]


def _key(plan: Plan) -> str:
    return replace(plan, note="", made=None).to_json(indent=None)


class Session:
    """The model, both halves, and the study."""

    def __init__(
        self,
        engine: Engine,
        data: Split,
        metric: str,
        study: Study,
        batch: int = 16,
        memory: float = 2.0,
        max_new_tokens: int = 32,
        progress: Callable[[], None] = lambda: None,
        watch: Callable[[float, float], None] = lambda loss, cost: None,
    ) -> None:
        """See `Evaluator` for batch to progress; `watch` is told loss and cost of every plan on the search half."""

        def make(examples: list[Example]) -> Evaluator:
            return Evaluator(engine, examples, metric, batch, memory, max_new_tokens, progress)

        self.engine, self.metric, self.study = engine, metric, study
        self.search = Half("search", data.search, study, make, watch)
        self.held = Half("held out", data.held, study, make)
        self.depth = engine.facts.depth

    def facts(self) -> Facts:
        """What the prompts of the search half are like."""

        def run(_data: Any, _beat: Callable[[], None]) -> dict[str, Any]:
            visual, text = [], []
            for batch in self.search.evaluator.batches:
                counts = _visual(self.engine, batch.inputs)
                visual += [n for n in counts if n]
                text += [int(m.sum()) - n for m, n in zip(batch.mask_BL, counts, strict=True)]
            if not visual:
                raise FoveateError("no prompt of the data has a picture in it; there is nothing to drop")
            same = len(set(visual)) == 1
            return {"loss": 0.0, "cost": 1.0, "tokens": int(median(visual)), "same": same, "text": int(median(text))}

        (found,) = self.study.ask([Asked("search: facts", None)], run)
        return Facts(found["tokens"], found["same"], found["text"])

    def takes(self, plan: Plan) -> bool:
        """Whether the model can carry a plan out, before anything runs."""
        try:
            attach(self.engine.model, plan).detach()
        except FoveateError:
            return False
        return True

    def seconds(self, plans: Sequence[Plan], repeats: int = 5) -> list[float]:
        """Prefill time under each plan over that of the full model, choosing included: medians of runs in turns.

        Measured once by whoever gets there first, and then remembered like a score.
        """

        def run(data: Any, _beat: Callable[[], None]) -> dict[str, Any]:
            ratio = self.search.evaluator.prefill_ratio(Plan.from_json(data), repeats)
            return {"loss": 0.0, "cost": ratio}

        asked = [Asked(f"seconds: {_key(p)}", p.to_json(indent=None)) for p in plans]
        return [float(r["cost"]) for r in self.study.ask(asked, run)]

    def judge(self, plan: Plan, confidence: float = 0.95) -> tuple[Outcome, Promise]:
        """The plan on the half that was not searched on."""
        (outcome,) = self.held.evaluate([plan])
        most = MOST if self.metric == "likelihood" else 1.0
        lost = self.held.losses(outcome)
        return outcome, promise(lost, confidence, one_way=self.metric == "agreement", most=most)

    def evidence(self, plan: Plan, how: dict[str, Any], confidence: float = 0.95) -> Plan:
        """The plan with how it was made, and what it did on both halves, for its file."""
        (seen,) = self.search.evaluate([plan])
        outcome, bound = self.judge(plan, confidence)
        made = {
            **how,
            "metric": self.metric,
            "model_type": self.engine.facts.model_type,
            "depth": self.depth,
            "search": {
                "examples": len(seen.scores),
                "full": self.search.full().score,
                "plan": seen.score,
                "loss": fmean(self.search.losses(seen)),
            },
            "held_out": {"full": self.held.full().score, "plan": outcome.score, **bound.to_dict()},
            "budget": outcome.budget,
            "visual_flops": outcome.flops,
            "claim": bound.sentence(self.metric),
        }
        return replace(plan, note=f"{how['by']}: {made['claim']}", made=json.loads(json.dumps(made)))


def _visual(engine: Engine, inputs: dict[str, Any]) -> list[int]:
    """Visual tokens of each prompt."""
    kinds = [family(engine.model).token_id(engine.model.config, k) for k in ("image", "video")]
    ids = torch.tensor([k for k in kinds if k is not None], device=inputs["input_ids"].device)
    counts: list[int] = torch.isin(inputs["input_ids"], ids).sum(1).tolist()
    return counts
