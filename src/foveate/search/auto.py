"""The cheapest plan that loses no more than one allows, over methods, their knobs and schedules; and how sure that is.

Two objectives, loss and cost, are searched on one half of the data. What comes of it is a front: plans that no other
beats in both. From its dear end down, plans are then tested on the other half, each at full strength, until one fails:
such a fixed sequence needs no correction for how many are tested, and the last that passed loses no more than allowed
with the stated confidence.
"""

from dataclasses import dataclass
from typing import Any, Literal

from foveate.errors import FoveateError, PlanError
from foveate.methods import method
from foveate.plan import Plan
from foveate.search.knobs import Knobs, knobs, space, usual
from foveate.search.promise import error
from foveate.search.propose import propose, values_of
from foveate.search.session import Session

Cost = Literal["flops", "budget", "seconds"]
_BELOW = 0.9
"""Of the cost asked for: operations are no exact multiple of tokens, and a plan just above it is none."""
_FAR = 0.5
"""A plan that costs less than this part of what is allowed was not searched for there."""
_HALF = 0.5
_STEP = 0.7
"""From share to share, where each method goes down until it loses too much."""
_TESTED = 8
"""Plans of a front that are tested on the other half, at most."""


@dataclass(frozen=True)
class Point:
    """One plan that was tried."""

    method: str
    options: dict[str, Any]
    plan: Plan
    loss: float
    error: float
    cost: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the plan follows from method and options."""
        return {"method": self.method, "options": self.options, "loss": self.loss, "cost": self.cost}


def explore(
    session: Session,
    trials: int = 60,
    width: int = 1,
    cost: Cost = "flops",
    seed: int = 0,
    near: float | None = None,
    served: bool = False,
    within: float | None = None,
) -> list[Point]:
    """Try plans on the search half; all that were tried, in order.

    Args:
        session: the model, the data and the study.
        trials: how many.
        width: how many a round.
        cost: what is made small beside the loss.
        seed: of the optimiser.
        near: the cost that is asked for: the first trials are every method just below it, and not by lot.
        served: try only what a server can carry out.
        within: the loss that is allowed: the first trials, two thirds of them at most, are every method at its usual
            settings and nine tenths of the tokens, then at fewer and fewer until it loses more. By lot, most plans
            would keep far too little.

    Raises:
        FoveateError: fewer than one trial, or a model that no method fits.
    """
    if trials < 1:
        raise FoveateError(f"trials is {trials}; at least 1 is needed")
    known_to_fit = _fitting(session, knobs(served))
    draw, names = space(session.depth, known_to_fit), list(known_to_fit)
    known: list[tuple[dict[str, Any], list[float]]] = []
    points: list[Point] = []
    share, alive = _BELOW * (1.0 if near is None else near), names
    start = [] if near is None and within is None else [usual(name, share) for name in names]
    while len(points) < trials:
        if within is not None and len(points) == len(start):
            passed = {p.method for p in points[-len(alive) :] if p.loss <= within}
            alive, share = [name for name in alive if name in passed], share * _STEP
            start += [usual(name, share) for name in alive][: max(0, 2 * trials // 3 - len(start))]
        count = min(width, trials - len(points))
        new = start[len(points) : len(points) + count]
        if (left := count - len(new)) and (within is None or not new):
            startup = 2 * len(names) if within is None else len(names)
            new = new + propose(draw, known, left, seed * 1000 + len(known), "tpe", startup=startup)
        drawn = [values_of(draw, p) for p in new]
        plans = [method(d["method"], **d["options"]) for d in drawn]
        outcomes = session.search.evaluate(plans)
        costs = session.seconds(plans) if cost == "seconds" else [getattr(o, cost) for o in outcomes]
        for params, d, plan, outcome, paid in zip(new, drawn, plans, outcomes, costs, strict=True):
            lost = session.search.losses(outcome)
            point = Point(d["method"], d["options"], plan, sum(lost) / len(lost), error(lost), paid)
            points.append(point)
            known.append((params, [point.loss, point.cost]))
    return points


def _fitting(session: Session, every: Knobs) -> Knobs:
    """The methods that the model does not refuse at their usual settings: layers may attend to nothing, say."""
    draw = space(session.depth, every)

    def fits(name: str) -> bool:
        drawn = values_of(draw, usual(name, _HALF))
        try:
            return session.takes(method(drawn["method"], **drawn["options"]))
        except PlanError:
            return False

    known = {name: knob for name, knob in every.items() if fits(name)}
    if not known:
        raise FoveateError(f"this model refuses every method that is tried: {', '.join(every)}; see foveate list")
    return known


def front(points: list[Point]) -> list[Point]:
    """Those that no other beats in both loss and cost, from dear to cheap."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, p.loss)):
        if not best or point.loss < best[-1].loss:
            best.append(point)
    return best[::-1]


def choose(
    session: Session,
    points: list[Point],
    max_loss: float | None = None,
    budget: float | None = None,
    confidence: float = 0.95,
    how: dict[str, Any] | None = None,
) -> Plan:
    """The plan, with its evidence.

    Args:
        session: where the points come from.
        points: from `explore`.
        max_loss: the loss that is allowed, a share of the answers (of likelihoods: nats a token); or
        budget: the cost that is allowed, a share of the full model's.
        confidence: of what is promised.
        how: settings to note in the plan.

    Raises:
        FoveateError: neither or both are given, or no plan that was tried is within the limit.
    """
    if (max_loss is None) == (budget is None):
        raise FoveateError("give --max-loss or --budget: one says what is allowed, the other is then made small")
    best = front(points)
    made: dict[str, Any] = {"by": "auto", **(how or {}), "front": [p.to_dict() for p in best]}
    if budget is not None:
        fits = [p for p in best if p.cost <= budget]
        if not fits:
            raise FoveateError(
                f"no plan tried costs {budget:g} of the full model or less; the nearest: {_said(best[-1])}; raise "
                "--trials or --budget"
            )
        asked: dict[str, Any] = {"budget": budget}
        if fits[0].cost < _FAR * budget:
            asked["nearest"] = _said(fits[0])
            if above := [p for p in best if p.cost > budget]:
                asked["nearest_above"] = _said(above[-1])
        return session.evidence(fits[0].plan, made | _of(fits[0]) | {"asked": asked}, confidence)
    assert max_loss is not None
    fits = [p for p in best if p.loss <= max_loss]
    if not fits:
        raise FoveateError(
            f"no plan tried loses {max_loss:g} or less; the nearest: {_said(best[0])}; raise --trials or --max-loss"
        )
    sure = _tested(session, fits, max_loss, confidence)
    # Without proof, at least a margin against having picked the luckiest.
    chosen = sure or next((p for p in reversed(fits) if p.loss + p.error <= max_loss), fits[0])
    asked = {"max_loss": max_loss, "proven": sure is not None}
    return session.evidence(chosen.plan, made | _of(chosen) | {"asked": asked}, confidence)


def _said(point: Point) -> str:
    return f"{point.method}, which costs {point.cost:.3g} and loses {point.loss:.3g}"


def _of(point: Point) -> dict[str, Any]:
    return {"method": point.method, "options": point.options}


def _tested(session: Session, fits: list[Point], limit: float, confidence: float) -> Point | None:
    passed = None
    step = max(1, -(-len(fits) // _TESTED))
    # Cheapest last, and always among them.
    for point in fits[::-1][::step][::-1]:
        try:
            _, bound = session.judge(point.plan, confidence)
        except PlanError:
            break
        if bound.upper > limit:
            break
        passed = point
    return passed
