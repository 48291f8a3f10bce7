"""One place where tokens are dropped, and how many may stay there at most."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from foveate.errors import PlanError, short
from foveate.ops.apportion import share
from foveate.selection import Between, Selector
from foveate.typed import plain

Place = Literal["encoder", "input"] | int | float
MOST = 1_000_000_000
"""No prompt holds as many tokens, and no model as many layers."""


def check_keep(keep: float | int, none: bool = False) -> float | int:
    """The keep as a plain number; one that means nothing is refused.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        none: whether keeping no token at all means something here.

    Raises:
        PlanError: neither a fraction in (0, 1] nor a number of at least 1.
    """
    if type(keep).__name__ in ("bool", "bool_") or not isinstance(keep, int | float | Real):
        raise PlanError(
            f"keep is {short(repr(keep))}; it must be a fraction in (0, 1] or a whole number of tokens, at least 1"
        )
    if none and keep == 0:
        return plain(keep)
    if isinstance(keep, Integral):
        if not 1 <= keep <= MOST:
            raise PlanError(f"keep is {short(str(keep))}; a number of tokens must be at least 1 and at most {MOST:,}")
    elif not 0 < keep <= 1:
        way = f"; for a number of tokens write keep={round(keep)}" if 1 < keep <= MOST else ""
        raise PlanError(f"keep is {keep}; a fraction must lie in (0, 1]{way}")
    return plain(keep)


@dataclass(frozen=True)
class Cut:
    """One place where tokens are dropped.

    Args:
        at: "encoder" (before the projector), "input" (as the LLM receives them), i: before decoder layer i, or a float
            in (0, 1): before the layer at that fraction of the depth, which `Plan.at_depth` turns into a number.
        select: which tokens stay.
        keep: how many of the ORIGINAL visual tokens may stay: a fraction (float) or a number (int), at most. 1 is one
            token, 1.0 is all of them; an image with fewer tokens than the number keeps all. 0 is none, at a decoder
            layer only: from there on no layer sees the image.
        over: "visual" chooses among the tokens of each image; "prompt" among the image tokens and the question's text
            of each prompt, where `keep` is relative to both together. Template and last tokens are never candidates.
        or_last: in a model without that layer, cut before its last one instead of refusing. For defaults, not for
            numbers that somebody chose.
        per: "image" gives each image of a prompt the keep by itself; "prompt" is one total for all images that a
            prompt brings in one forward pass, shared in proportion to their tokens.
        least: of each image stay at least so many, or all it has: a floor under a fraction, or under its share.
        exact: refuse an image that has fewer tokens than the number, instead of keeping all of them.
    """

    at: Place
    select: Selector
    keep: float | int
    over: Literal["visual", "prompt"] = "visual"
    or_last: bool = False
    per: Literal["image", "prompt"] = "image"
    least: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        # What was computed with numpy is a layer, and a count.
        object.__setattr__(self, "at", plain(self.at))
        object.__setattr__(self, "keep", check_keep(self.keep, none=isinstance(self.at, int | float)))
        object.__setattr__(self, "least", plain(self.least))
        layer = isinstance(self.at, int | float) and not isinstance(self.at, bool)
        if not layer and not (isinstance(self.at, str) and self.at in ("encoder", "input")):
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
        if self.or_last and not isinstance(self.at, int):
            raise PlanError(f"or_last=True speaks of a decoder layer's number, but the cut is at {self.at!r}")
        if self.over not in ("visual", "prompt"):
            raise PlanError(f'over is {short(repr(self.over))}; it must be "visual" or "prompt"')
        if self.over == "prompt" and self.at == "encoder":
            raise PlanError('over="prompt" needs text beside the image: cut at "input" or at a decoder layer')
        if self.per not in ("image", "prompt"):
            raise PlanError(f'per is {short(repr(self.per))}; it must be "image" or "prompt"')
        if isinstance(self.least, bool) or not isinstance(self.least, int) or not 0 <= self.least <= MOST:
            raise PlanError(f"least is {short(repr(self.least))}; it is a number of tokens, 0 or more")
        if not isinstance(self.exact, bool):
            raise PlanError(f"exact is {short(repr(self.exact))}; it must be true or false")
        if self.over == "prompt" and (self.per == "prompt" or self.least):
            raise PlanError('over="prompt" chooses among all tokens of a prompt at once; per and least speak of images')
        if self.per == "prompt" and self.at == "encoder":
            raise PlanError('per="prompt" needs to know which images make a prompt: cut at "input" or at a layer')
        if self.least and self.least > self.keep >= 1 and isinstance(self.keep, int):
            raise PlanError(f"least={self.least} is more than keep={self.keep}; one of them cannot be meant")
        if self.exact and not isinstance(self.keep, int):
            raise PlanError(f"exact=True speaks of a number of tokens, but keep is the fraction {self.keep}")
        if self.weighs and self.per != "prompt":
            raise PlanError(f'{type(self.select).__name__} divides a total among a prompt\'s images: give per="prompt"')
        if self.between is not None and self.at != "encoder":
            raise PlanError(f'{type(self.select).__name__} merges between the tower\'s layers: cut at "encoder"')
        if isinstance(self.select, type):
            raise PlanError(f"{self.select.__name__} is a class of selectors; make one: {self.select.__name__}()")
        for name, kind in (("reads", set | frozenset), ("adaptive", bool)):
            if not isinstance(getattr(self.select, name, None), kind):
                raise PlanError(f"{short(repr(self.select))} is no selector: its {name!r} must be a {kind}")

    @property
    def weighs(self) -> bool:
        """Whether the selector says what the images of a prompt are worth beside each other."""
        return hasattr(self.select, "image_weights")

    @property
    def between(self) -> Between | None:
        """What merges tokens between the tower's layers, where the selector does not choose behind them."""
        return getattr(self.select, "between", None)

    @property
    def words(self) -> Any:
        """Which words of the question count, as `foveate.words` has it; None: all."""
        return getattr(self.select, "text_words", None)

    @property
    def sized(self) -> bool:
        """Whether attention is to know how many tokens a merged one stands for."""
        return bool(getattr(self.select, "sized", False))

    def count(self, n: int) -> int:
        """How many of n original tokens may stay here: known before the choice, from the number alone.

        Raises:
            PlanError: with exact=True, keep is a number larger than n.
        """
        return self.counts([n])[0]

    def counts(self, sizes: Sequence[int], weights: Sequence[float] | None = None) -> list[int]:
        """How many tokens of each image of one prompt may stay, from their original numbers; `weights` are of shares.

        Raises:
            PlanError: with exact=True, keep is a number larger than an image (per prompt: than all of them); a total
                too small for one token, or the floor, of each.
        """
        if not self.keep or not sizes:
            return [0] * len(sizes)
        if self.per == "prompt":
            return share(self._of(sum(sizes)), sizes, max(1, self.least), weights)
        return [max(self._of(n), min(self.least, n)) for n in sizes]

    def _of(self, n: int) -> int:
        if isinstance(self.keep, int):
            if self.exact and self.keep > n:
                raise PlanError(
                    f"keep={self.keep} at {self.at!r}, but there are only {n} tokens; ask for at most {n}, for a "
                    "fraction of them, or leave exact=True away to keep them all"
                )
            return min(self.keep, n)
        # Half up, not banker's rounding: the count must not depend on whether n is odd.
        return max(1, int(self.keep * n + 0.5))

    def after(self, other: "Cut") -> bool:
        """Whether the cut comes later in a forward pass; of a layer and a fraction nobody can tell before the depth."""
        if isinstance(self.at, str) or isinstance(other.at, str):
            stages = ("encoder", "input")
            mine, theirs = (stages.index(c.at) if isinstance(c.at, str) else 2 for c in (self, other))
            return mine > theirs
        return type(self.at) is not type(other.at) or self.at > other.at
