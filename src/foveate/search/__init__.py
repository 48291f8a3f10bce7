"""Finds plans: what to keep where, for a model, a data set and a budget."""

from foveate.search.calibrate import calibrate

__all__ = ["calibrate"]
