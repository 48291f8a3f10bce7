"""The ways of answering that a benchmark compares: the whole model, each method at each keep, and a smaller image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from foveate.errors import FoveateError
from foveate.plan import Plan, as_dict

FULL = "full"
DOWNSAMPLE = "downsample"
ALWAYS = ("random", "uniform", "pool", DOWNSAMPLE)
"""In every table, asked for or not: who does not beat these has shown nothing."""

Kind = Literal["full", "plan", "downsample"]


@dataclass(frozen=True)
class Way:
    """One way of answering.

    Args:
        method: its name, as tables show it.
        keep: what was asked for, as text: a fraction, a number of tokens, or "plan" where a plan file says it.
        kind: "full" and "downsample" drop nothing, and have no plan.
        plan: what to drop.
        why: why there is no such plan, where the method cannot keep so few: it stays in the table and says so.
    """

    method: str
    keep: str = "1.0"
    kind: Kind = "full"
    plan: Plan | None = None
    why: str = ""

    @property
    def id(self) -> str:
        """Unique in a run."""
        return FULL if self.kind == "full" else f"{self.method}@{self.keep}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for programs; the plan's own data stands in it."""
        plan = None if self.plan is None else as_dict(self.plan)
        return {"id": self.id, "method": self.method, "keep": self.keep, "kind": self.kind, "plan": plan}


def line_up(methods: Sequence[str], keeps: Sequence[str], build: Callable[[str, str], Plan]) -> list[Way]:
    """The full model first, then for each keep the baselines and the methods asked for.

    Args:
        methods: names; the baselines may be among them.
        keeps: as the user wrote them.
        build: (method, keep) -> plan.

    Raises:
        FoveateError: nothing to keep, something twice, a method that can be built at no keep, or a keep at which none
            can.
    """
    if not keeps:
        raise FoveateError("there is no --keep; give one or more, such as 0.333,0.111")
    for what, names in (("--method", methods), ("--keep", keeps)):
        check_once(what, names, "give it once")
    ways = [Way(FULL)]
    failed: dict[str, list[FoveateError]] = {}
    for keep in keeps:
        for name in (*ALWAYS, *(m for m in methods if m not in ALWAYS)):
            if name == DOWNSAMPLE:
                ways.append(Way(name, keep, "downsample"))
                continue
            try:
                ways.append(Way(name, keep, "plan", build(name, keep)))
            except FoveateError as e:
                failed.setdefault(name, []).append(e)
                ways.append(Way(name, keep, "plan", None, str(e)))
        # Baselines can be built at whatever means something.
        if all(w.plan is None for w in ways if w.keep == keep and w.kind == "plan"):
            raise failed[ALWAYS[0]][-1]
    for errors in failed.values():
        # Wrong at every keep is a wrong word; wrong at some is a fact about the method.
        if len(errors) == len(keeps):
            raise errors[0]
    return ways


def check_names(tasks: Sequence[str], ways: Sequence[Way]) -> None:
    """Refuse tasks, and ways, of one name: answers are found again by it.

    Raises:
        FoveateError: two have the same.
    """
    check_once("--task", tasks, "give it once")
    check_once("--method", [w.id for w in ways], "rename one of the plan files")


def check_once(what: str, names: Sequence[str], way: str) -> None:
    """Refuse a name that stands twice where the option `what` names things; `way` is the way out.

    Raises:
        FoveateError: one does.
    """
    if twice := sorted({n for n in names if list(names).count(n) > 1}):
        raise FoveateError(f"{what} names {twice[0]} twice; {way}")
