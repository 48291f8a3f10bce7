"""Finds plans: how many tokens each layer needs, and the cheapest plan that loses no more than one allows."""

from foveate.search.calibrate import calibrate
from foveate.search.withdrawal import Withdrawal, withdrawal

__all__ = ["Withdrawal", "calibrate", "withdrawal"]
