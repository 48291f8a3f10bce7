"""How long, how fast, how soft: everything that decides a training run besides the data, as plain data."""

from dataclasses import dataclass
from math import cos, pi

from foveate.errors import FoveateError
from foveate.pointer.noise import GATES, Gate
from foveate.pointer.soft import Heat


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
        pull: weight of (mean count / budget - 1)^2.
        room: picks at most, in units of the budget.
        others: tokens by lot beside the best `room` budgets in what the LLM sees; fewer and fewer while it cools.
        gone: tokens kept less than this far are left out in the end, as they will be in use.
        gate: how a half-kept token looks; see `noise.gate`.
        perturb: Gumbel and logistic perturbation of picks and stops.
        straight: the straight-through estimator instead of soft values.
        chained: gradients through the whole sequence of picks, not only through each pick; see `soft.Heat`.
        denoise: a token-wise denoiser in training.
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
    pull: float = 2.0
    room: float = 2.5
    others: int = 16
    gone: float = 0.1
    gate: Gate = "matched"
    perturb: bool = True
    straight: bool = False
    chained: bool = False
    denoise: bool = False
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
            if not (value := getattr(self, name)) > 0:
                raise FoveateError(f"{name} is {value}; it must be above 0")
        if self.gate not in GATES:
            raise FoveateError(f"no gate {self.gate!r}; there are {', '.join(GATES)}")

    def heat(self, step: int) -> Heat:
        """How soft update number `step` is, counted from 0."""
        done = self._cooled(step)
        temperature = self.coldest + (self.hottest - self.coldest) * (1 + cos(pi * done)) / 2
        calm = self.calmest + (1 - self.calmest) * (1 - step / self.steps)
        return Heat(temperature, calm if self.perturb else 0.0, self.chained)

    def company(self, step: int) -> tuple[int, float]:
        """How many tokens by lot the LLM sees at update number `step`, and below which alpha it sees none."""
        done = self._cooled(step)
        return int(self.others * (1 - done) + 0.5), self.gone * done

    def _cooled(self, step: int) -> float:
        return min(1.0, step / max(1.0, self.cool * self.steps))

    def factor(self, step: int) -> float:
        """The share of the rate for update number `step`, counted from 0."""
        return min(1.0, (step + 1) / max(1, self.warmup)) * (1 + cos(pi * step / self.steps)) / 2
