"""What to try next: Optuna's samplers, asked so that the answer depends on the seed and on what is known, and no more.

A sampler keeps random state, which a killed process loses. So each round begins a study of its own in memory, told
everything that is known, with a seed made from the search's seed and the number of the round.
"""

import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

from foveate.search.study import load_optuna

Draw = Callable[[Any], dict[str, Any]]
"""An Optuna trial -> parameters, by its `suggest_...` methods."""
Kind = Literal["gp", "tpe"]


def propose(
    draw: Draw,
    known: Sequence[tuple[dict[str, Any], Sequence[float]]],
    count: int,
    seed: int,
    kind: Kind,
    startup: int = 6,
) -> list[dict[str, Any]]:
    """The next `count` sets of parameters, none known and no two the same where that can be helped.

    Args:
        draw: the space.
        known: parameters as Optuna names them, and the values to be made small.
        count: how many.
        seed: of this round.
        kind: "gp": a Gaussian process with expected improvement; "tpe": tree-structured Parzen estimators, which take
            conditional spaces and several objectives.
        startup: how many are drawn at random before the sampler trusts what it knows.
    """
    optuna = load_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental options say so every time
        samplers = optuna.samplers
        random = samplers.RandomSampler(seed=_seed(seed, "random"))
        if kind == "gp":
            sampler = samplers.GPSampler(
                seed=_seed(seed, "gp"),
                n_startup_trials=startup,
                independent_sampler=random,
                deterministic_objective=False,
            )
        else:
            sampler = samplers.TPESampler(
                seed=_seed(seed, "tpe"), n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
            )
        objectives = len(known[0][1]) if known else 1
        study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
        for params, values in known:
            study.enqueue_trial(params)
            trial = study.ask()
            draw(trial)
            study.tell(trial, list(values))
        seen = [params for params, _ in known]
        out: list[dict[str, Any]] = []
        while len(out) < count:
            for attempt in range(8):
                if attempt == 4:
                    study.sampler = random
                trial = study.ask()
                draw(trial)
                if trial.params not in seen:
                    break
            seen.append(trial.params)
            out.append(dict(trial.params))
    return out


def values_of(draw: Draw, params: dict[str, Any]) -> dict[str, Any]:
    """What `draw` makes of these parameters."""
    return draw(load_optuna().trial.FixedTrial(params))


def _seed(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())
