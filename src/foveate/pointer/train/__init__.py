"""Training of learned selectors in front of a frozen model."""

from foveate.pointer.train.loop import Check, Curve, make_accelerator, train
from foveate.pointer.train.recipe import Recipe
from foveate.pointer.train.task import Seen, Task

__all__ = ["Check", "Curve", "Recipe", "Seen", "Task", "make_accelerator", "train"]
