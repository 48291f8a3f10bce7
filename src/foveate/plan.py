"""Where tokens are dropped, and how many at most. A plan is plain data: it goes to JSON and comes back the same."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal

from foveate import plan_text
from foveate.cut import Cut
from foveate.errors import PlanError, short

Positions = Literal["original", "contiguous"]


@dataclass(frozen=True)
class Plan:
    """The cuts of one method, in the order in which a forward pass meets them.

    Args:
        cuts: sorted by place; two cuts cannot share one.
        positions: "original" leaves kept tokens their RoPE positions, "contiguous" renumbers them without gaps; None is
            what the model's family prefers.
        mean: the mean keep over all layers that fractions of the depth are to meet; `at_depth` scales keeps to it.
        note: free text that travels with the plan, for the reader of a plan file.
        made: how the plan was made and the evidence for it, plain data (JSON) that travels with it too; or None.
    """

    cuts: tuple[Cut, ...]
    positions: Positions | None = None
    mean: float | None = None
    note: str = field(default="", compare=False)
    made: Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.cuts, Cut) or not isinstance(self.cuts, Iterable):
            raise PlanError(f"cuts is {short(repr(self.cuts))}; write Plan((Cut(at, select, keep), ...))")
        object.__setattr__(self, "cuts", tuple(self.cuts))
        if not self.cuts:
            raise PlanError("a plan without cuts drops nothing; give it one, or run the model without a plan")
        mean = self.mean
        if mean is not None and not (isinstance(mean, int | float) and not isinstance(mean, bool) and 0 < mean <= 1):
            raise PlanError(f"mean is {short(repr(mean))}; it must be a fraction in (0, 1], or None")
        if mean is not None and (counts := [c.keep for c in self.cuts if isinstance(c, Cut) and _counts(c)]):
            raise PlanError(f"mean={mean} scales fractions, but a cut keeps {counts[0]} tokens; leave the mean out")
        if not isinstance(self.note, str):
            raise PlanError(f"note is {short(repr(self.note))}; it must be text")
        if not isinstance(self.made, Mapping | None):
            raise PlanError(f"made is {short(repr(self.made))}; what a plan says of its making is a mapping, or None")
        if self.positions not in (None, "original", "contiguous"):
            raise PlanError(f'positions is {short(repr(self.positions))}; it must be "original", "contiguous" or None')
        for cut in self.cuts:
            if not isinstance(cut, Cut):
                raise PlanError(f"{short(repr(cut))} is no Cut; write Cut(at, select, keep)")
        for a, b in zip(self.cuts, self.cuts[1:], strict=False):
            if not b.after(a):
                raise PlanError(f"cut at {b.at!r} comes after {a.at!r}; list cuts in forward order, one a place")
            if a.over == b.over and type(a.keep) is type(b.keep) and b.keep > a.keep:
                raise PlanError(
                    f"keep grows from {a.keep} at {a.at!r} to {b.keep} at {b.at!r}; dropped tokens cannot return"
                )

    def with_keep(self, *keeps: float | int) -> "Plan":
        """The same cuts with other keeps, one for each.

        Raises:
            PlanError: not as many keeps as cuts, or a keep out of range.
        """
        if len(keeps) != len(self.cuts):
            raise PlanError(f"{len(keeps)} keeps for {len(self.cuts)} cuts; give one for each")
        return replace(self, cuts=tuple(replace(c, keep=k) for c, k in zip(self.cuts, keeps, strict=True)), mean=None)

    def with_counts(self, per: Literal["image", "prompt"] = "image", least: int = 0, exact: bool = False) -> "Plan":
        """The same cuts with other rules of counting, where a cut is over images; see `Cut`.

        Raises:
            PlanError: the rules do not fit a cut's place or keep.
        """
        rules: dict[str, Any] = {"per": per, "least": least, "exact": exact}
        return replace(self, cuts=tuple(c if c.over == "prompt" else replace(c, **rules) for c in self.cuts))

    def at_depth(self, depth: int) -> "Plan":
        """The plan for a model of so many decoder layers: fractions become layers, the first possible being 1.

        In a model too shallow to keep two of them apart, the later one stands for both.

        Raises:
            PlanError: a layer that does not exist, or cuts out of order.
        """
        cuts: list[Cut] = []
        for cut in self.cuts:
            relative = isinstance(cut.at, float)
            last = isinstance(cut.at, int) and cut.or_last and cut.at >= depth > 1
            # A hair above, so that 24 / 32 of 32 layers is 24 whatever the rounding.
            at = max(1, int(cut.at * depth + 1e-9)) if isinstance(cut.at, float) else depth - 1 if last else cut.at
            if isinstance(at, int) and at >= depth:
                raise PlanError(f"cut at layer {at}, but this model has layers 0 to {depth - 1}; choose an earlier one")
            if relative and cuts and cuts[-1].at == at:
                cuts.pop()
            cuts.append(replace(cut, at=at))
        if self.mean is not None:
            cuts = _scaled(cuts, depth, self.mean)
        return replace(self, cuts=tuple(cuts), mean=None)

    def relative(self, depth: int, mean: float | None = None) -> "Plan":
        """The plan with its layers as fractions of this depth, so that it fits any model; `mean` as in the class."""
        cuts = tuple(replace(c, at=c.at / depth, or_last=False) if isinstance(c.at, int) else c for c in self.cuts)
        return replace(self, cuts=cuts, mean=mean)

    @property
    def reads(self) -> frozenset[str]:
        """Every TokenView field that some cut needs."""
        return frozenset().union(*(c.select.reads for c in self.cuts))

    @property
    def sized(self) -> bool:
        """Whether some cut wants attention to know how many tokens a merged one stands for."""
        return any(c.sized for c in self.cuts)

    @property
    def between(self) -> bool:
        """Whether tokens are merged between the tower's layers."""
        return any(c.between is not None for c in self.cuts)

    def to_json(self, indent: int | None = 2) -> str:
        """The plan as text that `from_json` takes.

        Raises:
            PlanError: a selector is no dataclass of plain values, nor a trained one that `save_pretrained` saved.
        """
        plain = ("at", "keep", "over", "or_last")
        rare = {"per": "image", "least": 0, "exact": False}
        cuts = [
            {name: getattr(c, name) for name in plain}
            | {name: getattr(c, name) for name, usual in rare.items() if getattr(c, name) != usual}
            | {"select": plan_text.dump(c.select)}
            for c in self.cuts
        ]
        own: dict[str, Any] = {"positions": self.positions, "mean": self.mean, "note": self.note}
        if self.made is not None:
            own["made"] = dict(self.made)
        data = {"foveate_plan": plan_text.VERSION, **own, "cuts": cuts}
        return json.dumps(data, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan back.

        Raises:
            PlanError: not JSON, not a plan, of another version, or naming a selector outside Foveate.
        """
        data = plan_text.read(text)
        try:
            plan_text.known(data, ("foveate_plan", *(f.name for f in fields(cls))), "the plan")
            names = [f.name for f in fields(Cut)]
            if not isinstance(data["cuts"], list):
                raise PlanError(f"cuts is {short(repr(data['cuts']))}; it must be a list")
            written = [plan_text.known(c, names, "a cut") for c in data["cuts"]]
            cuts = [Cut(**{**c, "select": plan_text.load(c["select"])}) for c in written]
            return cls(tuple(cuts), data.get("positions"), data.get("mean"), data.get("note", ""), data.get("made"))
        except (KeyError, TypeError) as e:
            raise PlanError(
                f"this plan is incomplete: {type(e).__name__} {e}; write plans with Plan.to_json()"
            ) from None
        except RecursionError:
            raise PlanError("this is no plan: selectors stand in each other too deeply") from None


def _counts(cut: Cut) -> bool:
    """Whether a cut's keep is a number of tokens; 0 is none, whatever it is of."""
    return isinstance(cut.keep, int) and cut.keep > 0


def _scaled(cuts: list[Cut], depth: int, mean: float) -> list[Cut]:
    """The cuts with their keeps times one factor, capped at 1, so that the mean over the layers is `mean`.

    Where even the smallest keeps exceed it, because layers before the first cut see everything, they stay as they are.
    """
    first = [c.at if isinstance(c.at, int) else 0 for c in cuts]
    spans = [b - a for a, b in pairwise([*first, depth])]
    before = first[0] if cuts else depth

    def budget(factor: float) -> float:
        return (before + sum(n * min(1.0, factor * c.keep) for n, c in zip(spans, cuts, strict=True))) / depth

    low, high = 0.0, 1.0 / min((c.keep for c in cuts if c.keep), default=1.0)
    if not budget(0.0) < mean <= budget(high):
        return cuts
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if budget(middle) < mean else (low, middle)
    return [replace(c, keep=min(1.0, high * c.keep)) for c in cuts]


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as a dict, for reports."""
    return json.loads(plan.to_json())  # type: ignore[no-any-return]
