"""One place where tokens are dropped, and how many may stay there at most."""

from dataclasses import dataclass
from typing import Literal

from foveate.errors import PlanError, short
from foveate.selection import Selector

Place = Literal["encoder", "input"] | int | float
MOST = 1_000_000_000
"""No prompt holds as many tokens, and no model as many layers."""


def check_keep(keep: float | int, none: bool = False) -> None:
    """Refuse a keep that means nothing.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        none: whether keeping no token at all means something here.

    Raises:
        PlanError: neither a fraction in (0, 1] nor a number of at least 1.
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise PlanError(
            f"keep is {short(repr(keep))}; it must be a fraction in (0, 1] or a whole number of tokens, at least 1"
        )
    if none and keep == 0:
        return
    if isinstance(keep, int) and not 1 <= keep <= MOST:
        raise PlanError(f"keep is {short(str(keep))}; a number of tokens must be at least 1 and at most {MOST:,}")
    if isinstance(keep, float) and not 0 < keep <= 1:
        way = f"; for a number of tokens write keep={round(keep)}" if 1 < keep <= MOST else ""
        raise PlanError(f"keep is {keep}; a fraction must lie in (0, 1]{way}")


@dataclass(frozen=True)
class Cut:
    """One place where tokens are dropped.

    Args:
        at: "encoder" (before the projector), "input" (as the LLM receives them), i: before decoder layer i, or a float
            in (0, 1): before the layer at that fraction of the depth, which `Plan.at_depth` turns into a number.
        select: which tokens stay.
        keep: how many of the ORIGINAL visual tokens may stay: a fraction (float) or a number (int). 1 is one token,
            1.0 is all of them. 0 is none, at a decoder layer only: from there on no layer sees the image.
        over: "visual" chooses among the tokens of each image; "prompt" among the image tokens and the question's text
            of each prompt, where `keep` is relative to both together. Template and last tokens are never candidates.
        or_last: in a model without that layer, cut before its last one instead of refusing. For defaults, not for
            numbers that somebody chose.
    """

    at: Place
    select: Selector
    keep: float | int
    over: Literal["visual", "prompt"] = "visual"
    or_last: bool = False

    def __post_init__(self) -> None:
        check_keep(self.keep, none=isinstance(self.at, int | float))
        if isinstance(self.at, bool) or not (self.at in ("encoder", "input") or isinstance(self.at, int | float)):
            raise PlanError(
                f'cut at {short(repr(self.at))}; it must be "encoder", "input" or the number of a decoder layer'
            )
        if isinstance(self.at, float) and not 0 < self.at < 1:
            raise PlanError(
                f"cut at {self.at}; a fraction of the depth lies between 0 and 1, and a layer is a whole number"
            )
        if isinstance(self.at, int) and not 0 <= self.at <= MOST:
            raise PlanError(f"cut at layer {short(str(self.at))}; layers count from 0, the first decoder layer")
        if not isinstance(self.or_last, bool):
            raise PlanError(f"or_last is {self.or_last!r}; it must be true or false")
        if self.over not in ("visual", "prompt"):
            raise PlanError(f'over is {short(repr(self.over))}; it must be "visual" or "prompt"')
        if self.over == "prompt" and self.at == "encoder":
            raise PlanError('over="prompt" needs text beside the image: cut at "input" or at a decoder layer')
        for name, kind in (("reads", set | frozenset), ("adaptive", bool)):
            if not isinstance(getattr(self.select, name, None), kind):
                raise PlanError(f"{short(repr(self.select))} is no selector: its {name!r} must be a {kind}")

    def count(self, n: int) -> int:
        """How many of n original tokens may stay here: known before the choice, from the number alone.

        Raises:
            PlanError: keep is a number larger than n.
        """
        if isinstance(self.keep, int):
            if self.keep > n:
                raise PlanError(
                    f"keep={self.keep} at {self.at!r}, but there are only {n} tokens; "
                    f"ask for at most {n}, or for a fraction of them"
                )
            return self.keep
        # Half up, not banker's rounding: the count must not depend on whether n is odd.
        return max(1, int(self.keep * n + 0.5)) if self.keep else 0

    def after(self, other: "Cut") -> bool:
        """Whether the cut comes later in a forward pass; of a layer and a fraction nobody can tell before the depth."""
        if isinstance(self.at, str) or isinstance(other.at, str):
            stages = ("encoder", "input")
            mine, theirs = (stages.index(c.at) if isinstance(c.at, str) else 2 for c in (self, other))
            return mine > theirs
        return type(self.at) is not type(other.at) or self.at > other.at
