"""Learned selectors: stepwise pointers that know when to stop (STS, and ours), and the one-shot scorer to beat."""

from foveate.pointer.config import OneShotConfig, PointerConfig
from foveate.pointer.oneshot import OneShotSelector
from foveate.pointer.selector import PointerSelector
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector

__all__ = [
    "OneShotConfig",
    "OneShotSelector",
    "PointerConfig",
    "PointerSelector",
    "StepwiseConfig",
    "StepwiseSelector",
]
