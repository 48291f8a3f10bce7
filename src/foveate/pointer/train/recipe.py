"""How long, how fast, how soft: everything that decides a training run besides the data, as plain data."""

import random
from dataclasses import dataclass, replace
from math import cos, exp, inf, log, pi
from typing import Any, Literal, Self

from foveate.errors import FoveateError
from foveate.pointer.noise import GATES, Gate
from foveate.pointer.soft import Heat, Scored


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Args:
        steps: updates.
        batch: images a micro-batch, on each process.
        accumulate: micro-batches an update.
        rate: learning rate at its highest; it warms up over `warmup` updates and falls to 0 as a cosine.
        decay: weight decay of matrices.
        clip: the gradient's norm at most.
        teach: updates of a first stage, in which a selector that reads the question learns to value what the model
            looks at (see `lesson`); 0: none.
        teachers: decoder layers that it is asked in; (): those where its last token looks most (see `gaze.readers`).
        afterwards: the share of the rate at which answers, in the second stage, move what the first taught: at all of
            it they undo most within some dozens of updates.
        length: what holds the count: "pull": `pull` times (mean count / budget - 1)^2; "pressure": lambda times the
            share kept, with no target.
        pull: its weight.
        spread: lowest and highest budget (or lambda), drawn anew for each update and told to the stop, so that one
            selector serves all between; equal for one alone. () is the selector's own budget.
        room: picks at most, in units of the budget.
        most: picks at most, as a share of the tokens.
        everything: all tokens reach the LLM, as published, instead of the best and some others.
        others: tokens by lot beside the best `room` budgets in what the LLM sees; fewer and fewer while it cools.
        gone: tokens kept less than this far are left out in the end, as they will be in use.
        crowd: the best so many budgets of tokens reach the LLM at most.
        early: whether those are left out from the start, and none come by lot: noise in the place of what is gone lets
            a model count that could not count without it.
        gate: how a half-kept token looks; see `noise.gate`.
        perturb: Gumbel and logistic perturbation of picks and stops.
        straight: the straight-through estimator instead of soft values.
        chained: gradients through the whole sequence of picks, not only through each pick; see `soft.Heat`.
        denoise: a token-wise denoiser in training.
        beta: how fast later rounds count less in the published score.
        scored: what that score sums.
        logs: whether Soft Top-K sees the logarithm of that score; see `soft.Heat`.
        felt: whether answers feel how many tokens stay, through the k of Soft Top-K; published: no, it is a fact.
        opening: the share of the run over which the question is let in, in the published selector.
        cool: the share of the run over which the temperature falls from `hottest` to `coldest`.
        calmest: the perturbation's last size; it falls from 1.
        seed: decides initial weights, order and noise.
        save_every, check_every: updates between states on disk and between looks at hard accuracy.
    """

    steps: int = 300
    batch: int = 8
    accumulate: int = 1
    rate: float = 1e-3
    warmup: int = 20
    decay: float = 0.01
    clip: float = 1.0
    teach: int = 0
    teachers: tuple[int, ...] = ()
    afterwards: float = 0.1
    length: Literal["pull", "pressure"] = "pull"
    pull: float = 2.0
    spread: tuple[float, ...] = ()
    room: float = 2.5
    most: float = 0.5
    everything: bool = False
    others: int = 16
    gone: float = 0.1
    crowd: float = 2.5
    early: bool = False
    gate: Gate = "matched"
    perturb: bool = True
    straight: bool = False
    chained: bool = False
    denoise: bool = False
    beta: float = 0.9
    logs: bool = True
    scored: Scored = "alive"
    felt: bool = False
    opening: float = 0.0
    cool: float = 0.8
    hottest: float = 1.0
    coldest: float = 0.2
    calmest: float = 0.3
    seed: int = 0
    save_every: int = 50
    check_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every", "check_every"):
            if (value := getattr(self, name)) < 1:
                raise FoveateError(f"{name} is {value}; it must be at least 1")
        for name in ("rate", "clip", "room", "coldest", "hottest", "cool"):
            if not 0 < (value := getattr(self, name)) < inf:
                raise FoveateError(f"{name} is {value}; it must be a number above 0")
        if self.gate not in GATES:
            raise FoveateError(f"no gate {self.gate!r}; there are {', '.join(GATES)}")
        if self.teach < 0:
            raise FoveateError(f"teach is {self.teach}; it must be 0 or more")
        if not 0 <= self.afterwards <= 1:
            raise FoveateError(f"afterwards is {self.afterwards}; it must be a share of the rate, from 0 to 1")
        object.__setattr__(self, "teachers", tuple(self.teachers))
        object.__setattr__(self, "spread", tuple(self.spread))
        if self.spread and not (len(self.spread) == 2 and 0 < self.spread[0] <= self.spread[1] < inf):
            raise FoveateError(f"spread is {self.spread}; it must be empty, or a lowest and a highest value above 0")
        if self.length == "pull" and self.spread and self.spread[1] > 1:
            raise FoveateError(f"spread is {self.spread}; budgets are shares of the tokens, at most 1")
        if self.length not in ("pull", "pressure"):
            raise FoveateError(f"length is {self.length!r}; it must be 'pull' or 'pressure'")
        if self.length == "pressure" and not self.spread:
            raise FoveateError("length is 'pressure', but spread is empty; give lambda's lowest and highest value")

    @classmethod
    def published(cls, **changes: Any) -> Self:
        """What STS and StepPrune publish (lambda: STS), or leave open and we fill in (temperatures, steps).

        The rate is ours: theirs, 5e-6, is for runs of many more updates.
        """
        known: dict[str, Any] = {
            "length": "pressure", "spread": (0.01, 0.01), "chained": True, "perturb": False, "denoise": True,
            "everything": True, "gone": 0.0, "opening": 0.2, "rate": 5e-4,
        }  # fmt: skip
        return cls(**known | changes)

    def lesson(self) -> Self:
        """The first stage as a run of its own."""
        return replace(self, steps=max(1, self.teach), teach=0, length="pull", spread=(), denoise=False)

    def drawn(self, step: int) -> float | None:
        """The budget, or lambda, of update number `step`: evenly spread on a logarithmic scale, the same for all."""
        if not self.spread:
            return None
        low, high = map(log, self.spread)
        return exp(low + (high - low) * random.Random(f"{self.seed} {step}").random())

    def middle(self) -> float:
        """The budget, or lambda, at which the stop is told nothing."""
        return (self.spread[0] * self.spread[1]) ** 0.5

    def heat(self, step: int) -> Heat:
        """How soft update number `step` is, counted from 0."""
        done = self._cooled(step)
        temperature = self.coldest + (self.hottest - self.coldest) * (1 + cos(pi * done)) / 2
        calm = self.calmest + (1 - self.calmest) * (1 - step / self.steps)
        text = min(1.0, (step + 1) / (self.opening * self.steps)) if self.opening else 1.0
        calm = calm if self.perturb else 0.0
        return Heat(temperature, calm, self.chained, self.straight, self.beta, text, self.logs, self.scored, self.felt)

    def company(self, step: int) -> tuple[int, float]:
        """How many tokens by lot the LLM sees at update number `step`, and below which alpha it sees none."""
        done = 1.0 if self.early else self._cooled(step)
        return int(self.others * (1 - done) + 0.5), self.gone * done

    def _cooled(self, step: int) -> float:
        return min(1.0, step / max(1.0, self.cool * self.steps))

    def factor(self, step: int) -> float:
        """The share of the rate for update number `step`, counted from 0."""
        return min(1.0, (step + 1) / max(1, self.warmup)) * (1 + cos(pi * step / self.steps)) / 2
