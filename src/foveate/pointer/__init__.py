"""Learned selectors: a stepwise pointer that knows when to stop (STS), and the one-shot scorer it has to beat."""

from foveate.pointer.config import OneShotConfig, PointerConfig
from foveate.pointer.oneshot import OneShotSelector
from foveate.pointer.selector import PointerSelector

__all__ = ["OneShotConfig", "OneShotSelector", "PointerConfig", "PointerSelector"]
