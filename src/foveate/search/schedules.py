"""G-Search and P-Sigmoid on a user's data: from a session to a plan that carries its evidence."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from foveate.errors import PlanError
from foveate.methods.layerwise import First, layerwise
from foveate.methods.psigmoid import psigmoid
from foveate.ops.flops import LayerShape
from foveate.plan import Plan
from foveate.search.gsearch import How, gsearch, searched
from foveate.search.outcome import Outcome
from foveate.search.promise import ERRORS, check_resolved, error
from foveate.search.propose import propose
from foveate.search.session import Session

TOLERANCE = {"likelihood": 0.02, "exact": 0.01, "vqa": 0.01, "agreement": 0.02}
"""Default loss: of likelihoods in nats a token (an answer that is lost costs 2 to 4), else a share of the answers."""
SLOPES = (4.0, 8.0, 16.0, 32.0)
_MILD = 0.75
_STEEP = (1.0, 100.0)
_LEAST_TOP = 0.2


@dataclass(frozen=True)
class Ranking:
    """What the tokens of a schedule are ranked by; arguments as in `layerwise`.

    The layer's own attention knows the question a layer earlier than the paper's ranking by the previous one, and the
    question's words know it before the last token does.
    """

    first: First = "full"
    raters: Literal["last", "text", "dynamic", "received"] = "text"
    attention: Literal["previous", "own"] = "own"

    def plan(self, keeps: Sequence[float]) -> Plan:
        """The schedule of these shares."""
        return layerwise(keeps, self.raters, self.attention, self.first)


@dataclass(frozen=True)
class Effort:
    """How much is asked: `trials` evaluations, `width` of them a round, and the seed of the optimiser."""

    trials: int = 12
    width: int = 1
    seed: int = 0


def find_schedule(
    session: Session,
    tolerance: float | None = None,
    how: How = "grid",
    stride: int = 1,
    ranking: Ranking = Ranking(),
    effort: Effort = Effort(),
    whole: int = 1,
) -> Plan:
    """G-Search: the fewest tokens each layer needs.

    Args:
        session: the model, the data and the study.
        tolerance: the loss that is allowed at the last layer; by default TOLERANCE of the metric.
        how: "grid" or "bayes"; see `gsearch`.
        stride: search every so many layers.
        ranking: what the tokens are ranked by.
        effort: trials a layer, if `how` is "bayes"; width and seed as in `gsearch`.
        whole: layers at the start that see everything; the paper's form is 2, ranked by `Ranking("full", "last",
            "previous")`.

    Raises:
        FoveateError: a stride or a number of whole layers that leaves none to search, or data that cannot resolve the
            tolerance.
    """
    tolerance = TOLERANCE[session.metric] if tolerance is None else tolerance
    tokens = session.facts().tokens
    layers = searched(session.depth, stride, ranking.first != "full", whole)
    resolved = _resolution(session, tolerance, ranking)

    def losses(schedules: Sequence[tuple[float, ...]], layer: int) -> list[float]:
        found = session.search.evaluate([ranking.plan(s) for s in schedules], max(1, layer))
        return [_mean_loss(session, f) for f in found]

    keeps = gsearch(
        losses, session.depth, layers, lambda share: max(tolerance * share, resolved), tokens, how, effort.width,
        effort.trials, seed=effort.seed,
    )  # fmt: skip
    settings = {
        "by": "G-Search", "how": how, "tolerance": tolerance, "stride": stride, "whole": whole, **asdict(ranking),
        "seed": effort.seed, "schedule": list(keeps),
    }  # fmt: skip
    return session.evidence(ranking.plan(keeps), settings)


def _mean_loss(session: Session, outcome: Outcome) -> float:
    return session.search.full().score - outcome.score


def _resolution(session: Session, tolerance: float, ranking: Ranking) -> float:
    """The smallest loss that the data tells from none.

    Raises:
        FoveateError: the tolerance is below it.
    """
    n = len(session.search.examples)
    if session.metric != "likelihood":
        return ERRORS**2 / n
    mild = ranking.plan([1.0, *[_MILD] * (session.depth - 1)])
    losses = session.search.losses(session.search.evaluate([mild])[0])
    check_resolved(tolerance, losses)
    return ERRORS * error(losses)


def find_slope(
    session: Session,
    keep: float,
    unit: Literal["tokens", "flops"] = "tokens",
    tune_top: bool = False,
    ranking: Ranking = Ranking(),
    effort: Effort = Effort(),
) -> Plan:
    """P-Sigmoid: the slope, and the upper level if asked for, that lose least under a budget.

    Args:
        session: the model, the data and the study.
        keep: the budget, a share.
        unit: of what: visual tokens, mean over layers; or their operations.
        tune_top: search the upper level too.
        ranking: what the tokens are ranked by.
        effort: evaluations in all.

    Raises:
        PlanError: a budget that cannot be met; one in operations for pictures of different sizes, or for a model whose
            config does not tell a layer's shape.
    """
    facts = session.facts()
    if unit == "flops" and not facts.same:
        raise PlanError("the pictures have different numbers of tokens; give a budget in tokens")
    extra: dict[str, Any] = {"depth": session.depth, "tokens": facts.tokens if facts.same else None}
    if unit == "flops":
        if (shape := LayerShape.of(session.engine.model.config.get_text_config())) is None:
            raise PlanError("the model's config does not tell what a layer costs; give a budget in tokens")
        extra |= {"shape": shape, "text": facts.text}

    def draw(trial: Any) -> dict[str, Any]:
        slope = trial.suggest_float("slope", *_STEEP, log=True)
        return {"slope": slope, "top": trial.suggest_float("top", _LEAST_TOP, 1.0) if tune_top else 1.0}

    def plan(params: dict[str, float]) -> Plan:
        top = params.get("top", 1.0)
        try:
            return psigmoid(keep, params["slope"], top, **asdict(ranking), **extra)
        except PlanError:
            if top == 1.0:
                raise
            # An upper level that the budget does not fit under stands for the lowest one that it does.
            return psigmoid(keep, params["slope"], 1.0, **asdict(ranking), **extra)

    known: list[tuple[dict[str, Any], list[float]]] = []
    start: list[dict[str, Any]] = [{"slope": s} | ({"top": 1.0} if tune_top else {}) for s in SLOPES[: effort.trials]]
    while len(known) < effort.trials:
        count = min(effort.width, effort.trials - len(known))
        new = start[len(known) : len(known) + count]
        new += (
            propose(draw, known, count - len(new), effort.seed * 1000 + len(known), "gp", 0) if len(new) < count else []
        )
        found = session.search.evaluate([plan(p) for p in new])
        known += [(p, [_mean_loss(session, f)]) for p, f in zip(new, found, strict=True)]
    best = min(range(len(known)), key=lambda i: (known[i][1][0], i))
    settings = {
        "by": "P-Sigmoid", "keep": keep, "unit": unit, "slope": known[best][0]["slope"],
        "top": known[best][0].get("top", 1.0), **asdict(ranking), "seed": effort.seed,
        "tried": [{**p, "loss": v[0]} for p, v in known],
    }  # fmt: skip
    return session.evidence(plan(known[best][0]), settings)
