"""Foveate drops the visual tokens a multimodal LLM does not need, before it pays for them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate import families, methods
    from foveate.cut import Cut
    from foveate.errors import FoveateError, ModelError, PlanError, SignalError
    from foveate.hf.attach import Attachment, attach
    from foveate.plan import Plan
    from foveate.selection import Attention, Selection, Selector, TokenView

__version__ = "0.1.0"
__all__ = [
    "Attachment",
    "Attention",
    "Cut",
    "FoveateError",
    "ModelError",
    "Plan",
    "PlanError",
    "Selection",
    "Selector",
    "SignalError",
    "TokenView",
    "__version__",
    "attach",
    "families",
    "methods",
]

# PyTorch and transformers take seconds to import, and `foveate --help` needs neither.
_HOMES = {
    "errors": ("FoveateError", "ModelError", "PlanError", "SignalError"),
    "hf.attach": ("Attachment", "attach"),
    "cut": ("Cut",),
    "plan": ("Plan",),
    "selection": ("Attention", "Selection", "Selector", "TokenView"),
}
_PARTS = ("cut", "errors", "families", "hf", "methods", "ops", "plan", "pointer", "selection")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"foveate.{name}")
    home = next((h for h, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"foveate.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
