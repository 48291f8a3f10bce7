"""What the cheapest plan is looked for among: methods, and what may be turned about each."""

from collections.abc import Callable, Mapping
from typing import Any

from foveate.methods.registry import method, offered
from foveate.servable import servable

KEEP = (0.01, 1.0)
Knobs = Mapping[str, Callable[[Any, float, int], dict[str, Any]]]
"""Method -> (trial, share to keep, depth) -> its options."""


def space(depth: int, known: "Knobs") -> Callable[[Any], dict[str, Any]]:
    """Methods and their knobs, for a model of so many layers. `keep` is drawn above what the method can meet."""

    def draw(trial: Any) -> dict[str, Any]:
        name = trial.suggest_categorical("method", list(known))
        share = trial.suggest_float("keep", *KEEP, log=True)
        return {"method": name, "options": known[name](trial, share, depth)}

    return draw


def _plain(_trial: Any, share: float, _depth: int) -> dict[str, Any]:
    return {"keep": share}


def _fastv(trial: Any, share: float, depth: int) -> dict[str, Any]:
    return {"keep": share, "layer": trial.suggest_int("fastv.layer", 1, max(1, depth // 2))}


def _pyramiddrop(_trial: Any, share: float, depth: int) -> dict[str, Any]:
    return {"keep": 1 / depth + share * (1 - 1 / depth), "depth": depth}


def _tops(trial: Any, share: float, depth: int) -> dict[str, Any]:
    return {"keep": share, "depth": depth, "transform": trial.suggest_categorical("tops.transform", ["rank", "none"])}


def _psigmoid(trial: Any, share: float, depth: int) -> dict[str, Any]:
    first = trial.suggest_categorical("psigmoid.first", ["full", "cls", "spread"])
    floor = 1 / depth if first == "full" else 0.0
    return {
        "keep": floor + share * (1 - floor),
        "depth": depth,
        "first": first,
        "attention": trial.suggest_categorical("psigmoid.attention", ["own", "previous"]),
        "slope": trial.suggest_float("psigmoid.slope", 2.0, 60.0, log=True),
    }


KNOBS: Knobs = {
    "divprune": _plain,
    "fastervlm": _plain,
    "fastv": _fastv,
    "pyramiddrop": _pyramiddrop,
    "tops": _tops,
    "psigmoid": _psigmoid,
}


SERVED = ("divprune", "fastervlm", "gots", "scope", "cdpruner")
"""One cut before the LLM, each another idea: what is tried where the plan is to be served."""


def knobs(served: bool = False) -> Knobs:
    """The methods that are tried: those above, and with nothing but `keep` those that installed packages offer."""
    if not served:
        return dict(KNOBS) | dict.fromkeys(offered(), _plain)
    return dict.fromkeys((*SERVED, *(n for n in offered() if servable(method(n, keep=0.5)) is None)), _plain)


def usual(name: str, share: float) -> dict[str, Any]:
    """A method's usual settings at a share, as Optuna names them."""
    usual: dict[str, dict[str, Any]] = {
        "fastv": {"fastv.layer": 1},
        "tops": {"tops.transform": "rank"},
        "psigmoid": {"psigmoid.first": "spread", "psigmoid.attention": "own", "psigmoid.slope": 12.0},
    }
    return {"method": name, "keep": min(max(share, KEEP[0]), KEEP[1]), **usual.get(name, {})}
