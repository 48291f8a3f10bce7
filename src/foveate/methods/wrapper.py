"""A selector around another, and a plan whose every selector is wrapped: what all switches are made of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from foveate.cut import Cut
from foveate.errors import PlanError
from foveate.plan import Plan
from foveate.selection import Selection, Selector, TokenView

_ASKED = ("attention", "text_tower", "text_words", "sized", "distance", "image_weights", "weighs")


@dataclass(frozen=True)
class Wrapper:
    """A selector around another, which reads and answers as that one where nothing else is said."""

    select: Selector

    @property
    def adaptive(self) -> bool:
        """As the selector inside."""
        return self.select.adaptive

    def __getattr__(self, name: str) -> Any:
        # What engines ask of selectors beside the protocol may stand on the one inside.
        if name in _ASKED and "select" in self.__dict__:
            return getattr(self.select, name)
        raise AttributeError(name)

    @property
    def reads(self) -> frozenset[str]:
        """As the selector inside."""
        return self.select.reads

    def __call__(self, view: TokenView, k: int) -> Selection:
        """As the selector inside."""
        return self.select(view, k)

    def _plain(self, view: TokenView, k: int) -> Selection:
        answer = self.select(view, k)
        if answer.mix_BKN is not None:
            raise PlanError(f"{type(self.select).__name__} merges tokens itself; leave {type(self).__name__} out")
        return answer


def each_cut(plan: Plan, wrap: Callable[[Cut], Selector], **over: Any) -> Plan:
    """The plan with every cut's selector wrapped, and other settings of its cuts.

    Raises:
        PlanError: a cut over the whole prompt, or one between a tower's layers that the wrapper does not know.
    """
    for cut in plan.cuts:
        if cut.over == "prompt":
            raise PlanError(f"the cut at {cut.at!r} chooses over the whole prompt; switches are for images")
    cuts: tuple[Cut, ...] = tuple(replace(cut, select=wrap(cut), **over) for cut in plan.cuts)
    for before, cut in zip(plan.cuts, cuts, strict=True):
        if before.between is not None and cut.between is None:
            raise PlanError(
                f"{type(before.select).__name__} merges between the tower's layers, where {type(cut.select).__name__} "
                "cannot follow; only sized(...) goes around it"
            )
    return replace(plan, cuts=cuts)
