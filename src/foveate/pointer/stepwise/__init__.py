"""STS as published: a cross-modal encoder before the projector, and a decoder whose attention does the picking."""

from foveate.pointer.stepwise.config import StepwiseConfig
from foveate.pointer.stepwise.selector import StepwiseSelector

__all__ = ["StepwiseConfig", "StepwiseSelector"]
