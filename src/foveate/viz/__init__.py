"""Which parts of a picture stayed: dropped cells dimmed, one panel a cut, one row an image."""

from foveate.viz.overlays import overlay, share, where
from foveate.viz.panels import PANEL, dim, fit
from foveate.viz.places import Placed, joined, place, seen_box
from foveate.viz.sheets import Panel, check_name, save, sheet

__all__ = [
    "PANEL",
    "Panel",
    "Placed",
    "check_name",
    "dim",
    "fit",
    "joined",
    "overlay",
    "place",
    "save",
    "seen_box",
    "share",
    "sheet",
    "where",
]
