"""What an engine answers: the words, the tokens they cost, and the seconds, part by part."""

from dataclasses import dataclass
from typing import Any

from foveate.hf.report import Report


@dataclass(frozen=True)
class Times:
    """Seconds of one answer, split where the language model's first call begins and ends.

    `encode` is everything before it (vision tower, projector, embedding); `select` is choosing tokens, taken out of the
    part it happened in; `prefill` is the first call; `decode` is the rest. Preparing the pictures is not in it.
    """

    encode: float
    select: float
    prefill: float
    decode: float

    @property
    def first_token(self) -> float:
        """Seconds until the first token could be sampled."""
        return self.encode + self.select + self.prefill

    @property
    def total(self) -> float:
        """Seconds of the whole answer."""
        return self.first_token + self.decode

    def to_dict(self) -> dict[str, float]:
        """Plain data for programs."""
        names = ("encode", "select", "prefill", "decode", "first_token", "total")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Answer:
    """What the model said, and what it cost."""

    text: str
    new_tokens: int
    """Tokens generated, the end token counted."""
    prompt_tokens: int
    """Tokens of the unpruned prompt, visual ones counted."""
    visual_tokens: int
    """Visual tokens of the unpruned prompt."""
    times: Times
    report: Report | None
    """What the plan did; None without a plan."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for programs."""
        return {
            "answer": self.text,
            "new_tokens": self.new_tokens,
            "prompt_tokens": self.prompt_tokens,
            "visual_tokens": self.visual_tokens,
            "seconds": self.times.to_dict(),
            "report": self.report.to_dict() if self.report else None,
        }


@dataclass(frozen=True)
class Comparison:
    """The same question with and without a plan; times are medians over `repeats` interleaved runs."""

    plain: Answer
    pruned: Answer
    repeats: int

    def ratios(self) -> dict[str, float | None]:
        """Plain over pruned seconds of each part: above 1 is a gain. None where the two cannot be compared.

        Answers of different lengths take different times to decode, whatever was pruned.
        """
        plain, pruned = self.plain.times.to_dict(), self.pruned.times.to_dict()
        same_length = self.plain.new_tokens == self.pruned.new_tokens
        names = ("encode", "prefill", "first_token", *(("decode", "total") if same_length else ()))
        ratios: dict[str, float | None] = dict.fromkeys(("encode", "prefill", "first_token", "decode", "total"))
        return ratios | {n: plain[n] / pruned[n] for n in names if pruned[n] > 0}
