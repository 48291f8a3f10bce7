"""Where tokens are dropped, and how many at most. A plan is plain data: it goes to JSON and comes back the same."""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from foveate.errors import PlanError
from foveate.selection import Selector

VERSION = 1
Place = Literal["encoder", "input"] | int | float
Positions = Literal["original", "contiguous"]


def check_keep(keep: float | int, none: bool = False) -> None:
    """Refuse a keep that means nothing.

    Args:
        keep: a fraction (float) or a number (int) of tokens.
        none: whether keeping no token at all means something here.

    Raises:
        PlanError: neither a fraction in (0, 1] nor a number of at least 1.
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise PlanError(f"keep is {keep!r}; it must be a fraction in (0, 1] or a whole number of tokens, at least 1")
    if none and keep == 0:
        return
    if isinstance(keep, int) and keep < 1:
        raise PlanError(f"keep is {keep}; a number of tokens must be at least 1")
    if isinstance(keep, float) and not 0 < keep <= 1:
        way = f"; for a number of tokens write keep={round(keep)}" if keep > 1 else ""
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
            raise PlanError(f'cut at {self.at!r}; it must be "encoder", "input" or the number of a decoder layer')
        if isinstance(self.at, float) and not 0 < self.at < 1:
            raise PlanError(
                f"cut at {self.at}; a fraction of the depth lies between 0 and 1, and a layer is a whole number"
            )
        if isinstance(self.at, int) and self.at < 0:
            raise PlanError(f"cut at layer {self.at}; layers count from 0, the first decoder layer")
        if self.over not in ("visual", "prompt"):
            raise PlanError(f'over is {self.over!r}; it must be "visual" or "prompt"')
        if self.over == "prompt" and self.at == "encoder":
            raise PlanError('over="prompt" needs text beside the image: cut at "input" or at a decoder layer')
        for name, kind in (("reads", set | frozenset), ("adaptive", bool)):
            if not isinstance(getattr(self.select, name, None), kind):
                raise PlanError(f"{self.select!r} is no selector: its {name!r} must be a {kind}")

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
        object.__setattr__(self, "cuts", tuple(self.cuts))
        if not isinstance(self.made, Mapping | None):
            raise PlanError(f"made is {self.made!r}; what a plan says of its making is a mapping, or None")
        if self.positions not in (None, "original", "contiguous"):
            raise PlanError(f'positions is {self.positions!r}; it must be "original", "contiguous" or None')
        for cut in self.cuts:
            if not isinstance(cut, Cut):
                raise PlanError(f"{cut!r} is no Cut; write Cut(at, select, keep)")
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
        cuts = tuple(replace(c, at=c.at / depth) if isinstance(c.at, int) else c for c in self.cuts)
        return replace(self, cuts=cuts, mean=mean)

    @property
    def reads(self) -> frozenset[str]:
        """Every TokenView field that some cut needs."""
        return frozenset().union(*(c.select.reads for c in self.cuts))

    def to_json(self, indent: int | None = 2) -> str:
        """The plan as text that `from_json` takes.

        Raises:
            PlanError: a selector is no dataclass of plain values, nor a trained one that `save_pretrained` saved.
        """
        plain = ("at", "keep", "over", "or_last")
        cuts = [{name: getattr(c, name) for name in plain} | {"select": _dump(c.select)} for c in self.cuts]
        own: dict[str, Any] = {"positions": self.positions, "mean": self.mean, "note": self.note}
        if self.made is not None:
            own["made"] = dict(self.made)
        data = {"foveate_plan": VERSION, **own, "cuts": cuts}
        return json.dumps(data, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan back.

        Raises:
            PlanError: not JSON, not a plan, of another version, or naming a selector outside Foveate.
        """
        if not isinstance(text, str):
            raise PlanError(f"this is no plan: from_json takes text, not {type(text).__name__}")
        try:
            data = json.loads(text)
        except json.JSONDecodeError as e:
            raise PlanError(f"this is no plan: not JSON at line {e.lineno}, column {e.colno} ({e.msg})") from None
        if not isinstance(data, dict) or "foveate_plan" not in data:
            raise PlanError('this is no plan: the key "foveate_plan" is missing; write plans with Plan.to_json()')
        if type(version := data["foveate_plan"]) is not int or version != VERSION:
            raise PlanError(
                f"plan file of version {version!r}, but this Foveate reads version {VERSION}; update one of them"
            )
        try:
            cuts = [
                Cut(c["at"], _load(c["select"]), c["keep"], c.get("over", "visual"), c.get("or_last", False))
                for c in data["cuts"]
            ]
            return cls(tuple(cuts), data.get("positions"), data.get("mean"), data.get("note", ""), data.get("made"))
        except (KeyError, TypeError) as e:
            raise PlanError(
                f"this plan is incomplete: {type(e).__name__} {e}; write plans with Plan.to_json()"
            ) from None


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


# Only these hold selectors: a plan file may come from anyone, and importing a module runs it.
_HOMES = ("foveate.methods.", "foveate.selection", "foveate.pointer.")


def _dump(value: Any) -> Any:
    if callable(getattr(value, "to_plan", None)):
        # A learned selector: its numbers stay in their folder, and the plan names that.
        kind = type(value)
        return {"kind": f"{kind.__module__}:{kind.__qualname__}", **value.to_plan()}
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if not kind.__module__.startswith(_HOMES):
            raise PlanError(
                f"{kind.__module__}.{kind.__qualname__} cannot go into a plan file: nobody could read it back"
            )
        values = {f.name: _dump(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"kind": f"{kind.__module__}:{kind.__qualname__}", **values}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise PlanError(f"{value!r} cannot go into a plan file; selectors are dataclasses of numbers and text")


def _load(data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    values = {name: _load(value) for name, value in data.items() if name != "kind"}
    module, _, name = str(data["kind"]).partition(":")
    if not module.startswith(_HOMES):
        raise PlanError(f"the plan names {data['kind']!r}; plan files hold Foveate's own selectors only")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise PlanError(f"the plan names {data['kind']!r}, which this Foveate does not have; update it") from None
    make: Any = getattr(kind, "from_plan", kind)
    if not (isinstance(kind, type) and (is_dataclass(kind) or make is not kind)):
        raise PlanError(f"the plan names {data['kind']!r}, which is no selector")
    try:
        return make(**values)
    except TypeError as e:
        raise PlanError(f"{data['kind']} does not take these values: {e}") from None


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as a dict, for reports."""
    return json.loads(plan.to_json())  # type: ignore[no-any-return]
