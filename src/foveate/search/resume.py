"""Start a forward pass of the decoder in the middle, where an earlier pass with the same beginning left off.

Candidates of a search often share everything before some layer: the layers that no plan cuts, or the part of a
schedule that is settled. Their states on arrival at that layer are kept, and the layers before it are passed over. The
cuts before it are not chosen again either: what they kept is recalled, in the order in which they were asked.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from foveate.cut import Cut
from foveate.plan import Plan
from foveate.selection import Selection, TokenView

UNSURE = frozenset({"text_BTD", "grid"})
"""Fields by which images are grouped before a selector is asked: without them the order of asking would be another."""


@dataclass
class Arrival:
    """What one batch was like on arrival at a layer.

    Args:
        at: the layer.
        beginning: the cuts before it.
        positions: the plan's policy.
        states: layer -> hidden states on arrival there, for `at` and the layer before it (whose attention a cut may
            read).
        answers: for each of those cuts, what its selector answered, in order.
    """

    at: int
    beginning: tuple[Cut, ...]
    positions: Any
    states: dict[int, Tensor] = field(default_factory=dict)
    answers: list[list[Selection]] = field(default_factory=list)

    def fits(self, plan: Plan) -> bool:
        """Whether a plan begins the same way."""
        return beginning(plan, self.at) == self.beginning and plan.positions == self.positions

    @property
    def bytes(self) -> int:
        """Memory of the states."""
        return sum(s.numel() * s.element_size() for s in self.states.values())


def beginning(plan: Plan, at: int) -> tuple[Cut, ...]:
    """The cuts that come before a layer."""
    return tuple(c for c in plan.cuts if not isinstance(c.at, int) or c.at < at)


def can_begin(plan: Plan, at: int) -> bool:
    """Whether what comes before a layer can be recalled."""
    return at >= 1 and not any(c.at == "encoder" or c.over == "prompt" or c.select.reads & UNSURE
                               for c in beginning(plan, at))  # fmt: skip


class Recording:
    """A selector that writes down what another one answers."""

    def __init__(self, select: Any, into: list[Selection]) -> None:
        self.select, self.into = select, into
        self.reads, self.adaptive = select.reads, select.adaptive
        self.attention = getattr(select, "attention", None)

    def __call__(self, view: TokenView, k: int) -> Selection:
        """The other one's answer."""
        self.into.append(answer := self.select(view, k))
        return answer


class Recalling:
    """A selector that gives answers again, in order."""

    reads: frozenset[str] = frozenset()
    adaptive = True

    def __init__(self, answers: Sequence[Selection]) -> None:
        self.answers = iter(answers)

    def __call__(self, view: TokenView, k: int) -> Selection:
        """The next answer."""
        return next(self.answers)


def prepared(plan: Plan, start: Arrival | None, end: Arrival | None) -> Plan:
    """The plan with its first cuts recalled from `start` and those before `end` written down there."""
    known = len(start.beginning) if start else 0
    wanted = len(end.beginning) if end else 0
    cuts = list(plan.cuts)
    for i in range(max(known, wanted)):
        select: Any = cuts[i].select
        if start and i < known:
            select = Recalling(start.answers[i])
        if end and i < wanted:
            end.answers.append([])
            select = Recording(select, end.answers[i])
        cuts[i] = replace(cuts[i], select=select)
    return replace(plan, cuts=tuple(cuts))


@contextmanager
def passing(layers: nn.ModuleList, start: Arrival | None, end: Arrival | None, every: bool = False) -> Iterator[None]:
    """Pass over the layers before `start` and put by what arrives at `end`, for forward passes inside the `with`.

    `every`: and at every layer before it.
    """
    handles: list[Any] = []
    skipped: list[Any] = list(layers[: start.at]) if start else []
    # Hooks that come first of all, before cuts are made; of these, the one registered last.
    if end is not None:
        for i in range(end.at + 1) if every else {end.at - 1, end.at}:
            handles.append(layers[i].register_forward_pre_hook(_keep(end, i), prepend=True, with_kwargs=True))
    if start is not None:
        for i, states in start.states.items():
            handles.append(layers[i].register_forward_pre_hook(_give(states), prepend=True, with_kwargs=True))
    # Others, accelerate among them, put a forward on the instance.
    before = [layer.__dict__.get("forward") for layer in skipped]
    try:
        for layer in skipped:
            layer.forward = _idle
        yield
    finally:
        for layer, theirs in zip(skipped, before, strict=True):
            del layer.forward
            if theirs is not None:
                layer.forward = theirs
        for handle in handles:
            handle.remove()


def _idle(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _keep(end: Arrival, layer: int) -> Any:
    def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        end.states[layer] = args[0] if args else kwargs["hidden_states"]

    return hook


def _give(states: Tensor) -> Any:
    def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if args:
            return (states, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": states}

    return hook
