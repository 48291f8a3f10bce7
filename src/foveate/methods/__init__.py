"""The methods: one file a paper, each a function that returns a `Plan`."""

import inspect
from collections.abc import Callable
from typing import Any

from foveate.errors import PlanError, unknown
from foveate.methods.divprune import divprune
from foveate.methods.fastervlm import fastervlm
from foveate.methods.fastv import fastv
from foveate.methods.pool import pool
from foveate.methods.psigmoid import psigmoid
from foveate.methods.pyramiddrop import pyramiddrop
from foveate.methods.random import random
from foveate.methods.sms import sms
from foveate.methods.sts import sts
from foveate.methods.tops import tops
from foveate.methods.uniform import uniform
from foveate.plan import Plan

METHODS: dict[str, Callable[..., Plan]] = {
    "random": random,
    "uniform": uniform,
    "pool": pool,
    "fastervlm": fastervlm,
    "divprune": divprune,
    "fastv": fastv,
    "pyramiddrop": pyramiddrop,
    "tops": tops,
    "sms": sms,
    "psigmoid": psigmoid,
    "sts": sts,
}
"""Name to function. All take `keep`; those that place cuts by the depth of the LLM also take `depth`, its layers."""


def method(name: str, **options: Any) -> Plan:
    """The plan of a method by name, for callers that hold names and options as text.

    Raises:
        PlanError: no such method, no such option, or a value that the method refuses.
    """
    if name not in METHODS:
        raise PlanError(unknown("method", name, METHODS))
    known = inspect.signature(METHODS[name]).parameters
    for option in options:
        if option not in known:
            raise PlanError(unknown(f"option of {name}", option, known, see=f"help(foveate.methods.{name})"))
    if missing := [p.name for p in known.values() if p.default is p.empty and p.name not in options]:
        raise PlanError(f"{name} needs {', '.join(missing)}; for example {name}(keep=0.25)")
    return METHODS[name](**options)
