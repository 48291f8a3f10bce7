"""The numbers of the run that made the embedded checkpoint. Change one and it is another checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from foveate.tiny.branches import TOKENS
from instruments.llava.course import Course
from instruments.llava.lessons import Lesson
from instruments.llava.stage import Stage

WINDOWS = Stage("windows", steps=1500, micro=2, scenes=8, rate=1e-3, warmup=100, decay=0.2)
IMAGES = Stage("images", steps=800, micro=2, scenes=6, rate=0.8e-3, warmup=30, decay=0.3)
NAMES = Lesson(Stage("names", steps=150, micro=4, scenes=4, rate=2e-3, warmup=10), 30_000_000, answer=False)
SHOWN = Lesson(
    Stage("shown", steps=450, micro=2, scenes=4, rate=1.5e-3, warmup=20, decay=0.0, check_every=100),
    57_000_000,
    tiers=("medium",),
    budgets=(48, 64, 64, 96),
    pointing=0.3,
)
FEW = Lesson(
    Stage("few", steps=300, micro=2, scenes=4, rate=1.5e-3, warmup=20, decay=0.0, check_every=150),
    60_000_000,
    budgets=(96, 128, 160, 224),
    pointing=0.2,
    spelling=True,
)
HARD = ("relation", "count", "plate")
HOPS = Lesson(
    Stage("hops", steps=300, micro=2, scenes=4, rate=1.5e-3, warmup=20, decay=0.0, check_every=100),
    65_000_000,
    budgets=(96, 128, 160, 224),
    pointing=0.25,
    spelling=True,
    favoured=HARD,
)
WIDE = Lesson(
    Stage("wide", steps=360, micro=2, scenes=4, rate=0.8e-3, warmup=10, decay=0.0, check_every=90),
    70_000_000,
    pointing=0.25,
    spelling=True,
    favoured=HARD,
)
SPELL = Lesson(
    Stage("spell", steps=300, micro=2, scenes=6, rate=1.5e-3, warmup=20, decay=0.0, check_every=100),
    72_000_000,
    tiers=("crowded", "cluttered"),
    budgets=(96, 128, 160, 224),
    pointing=0.25,
    spelling=True,
    favoured=("plate",),
)
ALL = Lesson(
    Stage("all", steps=900, micro=2, scenes=4, rate=0.8e-3, warmup=10, decay=1.0, check_every=150),
    75_000_000,
    favoured=HARD,
)


@dataclass(frozen=True)
class Recipe(Course):
    """`region` is the weight of patch against text: higher makes text relevance sharper than in real models."""

    region: float = 0.2

    @property
    def full_steps(self) -> int:
        """Steps at the end in which the model answers from all visual tokens."""
        last = takewhile(lambda lesson: lesson.answer and min(lesson.budgets) == TOKENS, reversed(self.lessons))
        return sum(lesson.stage.steps for lesson in last)


RECIPE = Recipe(WINDOWS, IMAGES, (NAMES, SHOWN, FEW, HOPS, WIDE, SPELL, ALL))
