"""What a learned selector is made of: plain data, written to config.json beside its weights."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

from foveate import typed
from foveate.errors import FoveateError

Stop = Literal["hazard", "softmax", "none"]
Dial = tuple[tuple[float, float], ...]


def check(name: str, value: float, good: bool, rule: str) -> None:
    """Refuse a value that cannot be."""
    if not good:
        raise FoveateError(f"{name} is {value}; it must be {rule}")


class Stopping(Protocol):
    """What reading a walk needs to know of its selector."""

    @property
    def stop(self) -> Stop:
        """The kind of stop."""
        ...

    @property
    def stop_scale(self) -> float:
        """The sharpness that a hazard is read with."""
        ...


def sane(config: Any) -> None:
    """Kinds and sizes, before a single weight is made: a config may come from anyone.

    Raises:
        FoveateError: a value of the wrong kind, or a size that no selector has.
    """
    typed.check(vars(config), typed.hints_of(type(config)))
    for name, most in _MOST.items():
        if (value := getattr(config, name, 0)) > most:
            raise FoveateError(f"{name} is {value:,}; no selector has more than {most:,}")


_MOST = {"features": 2**17, "width": 2**14, "heads": 2**10, "blocks": 64, "likeness": 2**14, "group": 2**20}


@dataclass(frozen=True)
class PointerConfig:
    """A stepwise selector.

    Args:
        features: width of the tokens it reads, the LLM's.
        budget: the share of the tokens that it was trained to keep on average; steps are counted in units of it.
        text: whether the question is read too: its words join the tokens in the encoder's blocks, in order.
        width: width of the selector itself.
        heads: attention heads of its encoder.
        blocks: Transformer blocks of its encoder.
        likeness: width of the space in which picked tokens cover others.
        group: tokens picked a step; state and stop move once a step, coverage at every pick.
        coverage: whether tokens like those already picked lose score.
        centred: whether likeness is that of standardised tokens, instead of tokens as they are. What says nothing lies
            near the mean token: as they are, such tokens are alike; about the mean, they point anywhere.
        lead: the share of an image's tokens that are picked by what they are worth; after those, coverage alone
            decides. Worth sends pick after pick to the things in the picture, and a model that counts by how much of
            what it sees is a thing counts too many.
        state: whether a GRU remembers what was picked.
        stop: "hazard": a chance to stop before each step, and the sequence ends where half of all sequences would have;
            "softmax": stopping competes with the tokens; "none": always as many as allowed.
        stop_bias: the run-time dial: added to the stop's logit, so that larger keeps fewer.
        stop_scale: the sharpness of the stop at the end of training, which its hazard is read with.
        dial: for a selector of many budgets, which stop_bias keeps which share of the tokens on average: pairs
            (share, stop_bias), shares rising.
    """

    features: int
    budget: float
    text: bool = False
    width: int = 128
    heads: int = 4
    blocks: int = 1
    likeness: int = 64
    group: int = 1
    coverage: bool = True
    centred: bool = False
    lead: float = 1.0
    state: bool = True
    stop: Stop = "hazard"
    stop_bias: float = 0.0
    stop_scale: float = 0.3
    dial: Dial = ()

    @classmethod
    def reading(cls, features: int, budget: float, **changes: Any) -> Self:
        """One that reads the question: where it names two things, words and tokens have to speak more than once."""
        return cls(features, budget, **{"text": True, "blocks": 3, "width": 192} | changes)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dial", tuple((float(share), float(bias)) for share, bias in self.dial))
        sane(self)
        for name in ("features", "width", "heads", "likeness", "group"):
            check(name, v := getattr(self, name), v >= 1, "at least 1")
        check("blocks", self.blocks, self.blocks >= 0, "0 or more")
        check("budget", self.budget, 0 < self.budget <= 1, "a fraction in (0, 1]")
        check("lead", self.lead, 0 <= self.lead <= 1, "a fraction from 0 to 1")
        check("stop_scale", self.stop_scale, self.stop_scale > 0, "above 0")
        check("width", self.width, self.width % self.heads == 0, f"a multiple of the {self.heads} heads")
        if self.stop not in (known := ("hazard", "softmax", "none")):
            raise FoveateError(f"stop is {self.stop!r}; it must be one of {', '.join(known)}")


@dataclass(frozen=True)
class OneShotConfig:
    """A one-shot scorer; arguments as in `PointerConfig`."""

    features: int
    budget: float
    text: bool = False
    width: int = 128
    heads: int = 4
    blocks: int = 2

    def __post_init__(self) -> None:
        sane(self)
        for name in ("features", "width", "heads"):
            check(name, v := getattr(self, name), v >= 1, "at least 1")
        check("blocks", self.blocks, self.blocks >= 0, "0 or more")
        check("budget", self.budget, 0 < self.budget <= 1, "a fraction in (0, 1]")
        check("width", self.width, self.width % self.heads == 0, f"a multiple of the {self.heads} heads")
