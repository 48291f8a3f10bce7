"""What the published selector is made of: plain data, written to config.json beside its weights."""

from dataclasses import dataclass
from typing import Literal

from foveate.pointer.config import Dial, check, sane


@dataclass(frozen=True)
class StepwiseConfig:
    """The published stepwise selector.

    Args:
        features: width of the tokens it reads, the vision encoder's.
        words: width of the LLM's word embeddings; 0 reads no question.
        budget: the share of the tokens that it keeps on average where its dial stands.
        width: width of the selector itself; 0 is `features`, as published.
        heads: attention heads of encoder and decoder.
        blocks: joint blocks of the cross-modal encoder.
        causal: whether a token of the encoder sees only those before it, so never the question; the papers' ablation.
        layers: decoder layers; the last one's cross-attention points.
        group: tokens a round; the stop is tested first.
        text: how far the question is let in, from 0 (E~ = 0) to 1.
        coverage: whether tokens like those already picked lose score; not published, ours.
        likeness: width of the space in which picked tokens cover others.
        stop_bias: the run-time dial: added to the stop's logit, so that larger keeps fewer.
        dial: which stop_bias keeps which share of the tokens on average, as in `PointerConfig`.
    """

    features: int
    words: int
    budget: float
    width: int = 0
    heads: int = 4
    blocks: int = 2
    causal: bool = False
    layers: int = 1
    group: int = 1
    text: float = 1.0
    coverage: bool = False
    likeness: int = 64
    stop_bias: float = 0.0
    dial: Dial = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dial", tuple((float(share), float(bias)) for share, bias in self.dial))
        sane(self)
        for name in ("features", "heads", "layers", "group", "likeness"):
            check(name, v := getattr(self, name), v >= 1, "at least 1")
        for name in ("words", "width", "blocks"):
            check(name, v := getattr(self, name), v >= 0, "0 or more")
        check("budget", self.budget, 0 < self.budget <= 1, "a fraction in (0, 1]")
        check("text", self.text, 0 <= self.text <= 1, "from 0 to 1")
        check("width", self.size, self.size % self.heads == 0, f"a multiple of the {self.heads} heads")

    @property
    def size(self) -> int:
        """The selector's width."""
        return self.width or self.features

    @property
    def stop_scale(self) -> float:
        """The stop is read as it is."""
        return 1.0

    @property
    def stop(self) -> Literal["softmax"]:
        """Stopping is one more candidate."""
        return "softmax"
