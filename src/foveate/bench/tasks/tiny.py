"""The embedded world: held-out scenes of `foveate.tiny`, one question each, so that examples are independent."""

from dataclasses import dataclass

from PIL import Image

from foveate.bench.tasks import Task
from foveate.data import Example
from foveate.errors import FoveateError, unknown
from foveate.metrics import exact
from foveate.tiny import world
from foveate.tiny.vocabulary import EVERY_TIER

DEFAULT, MOST = 500, 20_000
_LONGEST = 6
"""Tokens; a plate's three letters are the longest answer."""


@dataclass(frozen=True)
class SceneExample(Example):
    """Painted when it is looked at, and not kept: a thousand scenes are a tenth of a gigabyte."""

    index: int = 0
    tier: str | None = None

    def pictures(self) -> list[Image.Image]:
        """The scene."""
        return [world.scene("test", self.index, 1, self.tier).image]


def load(name: str, limit: int | None = None) -> Task:
    """`tiny`, or `tiny:TIER` for scenes of one tier.

    Raises:
        FoveateError: no such tier, or a limit out of range.
    """
    _, _, tier = name.partition(":")
    if tier and tier not in EVERY_TIER:
        raise FoveateError(unknown("tier", tier, EVERY_TIER, see="tiers of the embedded world"))
    count = limit or DEFAULT
    if count > MOST:
        raise FoveateError(f"--limit is {count}; the embedded world is asked at most {MOST} questions")
    examples: list[Example] = []
    index = 0
    while len(examples) < count:
        # A scene may have nothing to ask about.
        for q in world.scene("test", index, 1, tier or None).questions:
            examples.append(SceneExample(str(index), (), q.text, (q.answer,), index, tier or None))
        index += 1
    return Task(name, examples, lambda a, e: exact(a, e.answers), "exact match", _LONGEST)
