"""Foveate drops the visual tokens a multimodal LLM does not need, before it pays for them."""

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
