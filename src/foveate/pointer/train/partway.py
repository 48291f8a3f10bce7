"""A model run as far as training needs it: a hook that has seen enough ends the call."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from foveate.cut import Cut
from foveate.methods.uniform import Uniform
from foveate.plan import Plan

EVERYTHING = Plan((Cut("input", Uniform(), 1.0),))
"""All tokens, as a plan: so that what is asked goes through the same code."""


class Enough(Exception):
    """Ends a call whose rest nobody needs."""


def run_partway(
    model: nn.Module, inputs: dict[str, Any], hooks: Iterable[tuple[nn.Module, Callable[..., Any]]]
) -> None:
    """Call the model with a hook before each of these modules; one that raises `Enough` ends the call."""
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in hooks]
    try:
        model(**inputs, use_cache=False)
    except Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
