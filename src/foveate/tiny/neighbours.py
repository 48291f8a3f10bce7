"""Which thing of a layout stands next to another, where nobody could doubt it."""

from __future__ import annotations

import numpy as np

from foveate.tiny.layout import Distractor, Layout, Thing


def neighbour(layout: Layout, anchor: Thing, step: tuple[int, int]) -> Thing | None:
    """The thing next to `anchor` in direction `step`, or None where that is open to doubt.

    It must be close (16 pixels at most between the boxes), level (centres within 8 pixels across), and everything else
    on that side must be clearly farther: other things 1.6 times, distractors 1.2 times.
    """
    reach = sorted((r, i) for i, t in enumerate(layout.things) if t is not anchor and (r := _reach(anchor, t, step)))
    if not reach:
        return None
    nearest, index = reach[0]
    target = layout.things[index]
    along, across = _offset(anchor, target, step)
    sizes = (anchor.width + target.width) / 2 if step[0] else (anchor.height + target.height) / 2
    if abs(across) > 8 or along - sizes > 16:
        return None
    if len(reach) > 1 and reach[1][0] < 1.6 * nearest:
        return None
    if any(0 < _reach(anchor, d, step) < 1.2 * nearest for d in layout.distractors):
        return None
    return target


def _offset(anchor: Thing, other: Thing | Distractor, step: tuple[int, int]) -> tuple[float, float]:
    dx = other.x + other.width / 2 - anchor.center[0]
    dy = other.y + other.height / 2 - anchor.center[1]
    return dx * step[0] + dy * step[1], dx * step[1] + dy * step[0]


def _reach(anchor: Thing, other: Thing | Distractor, step: tuple[int, int]) -> float:
    """Distance of centres if `other` lies roughly that way (within 56 degrees), else 0."""
    along, across = _offset(anchor, other, step)
    return float(np.sqrt(along**2 + across**2)) if along > 0 and abs(across) <= 1.5 * along else 0.0
