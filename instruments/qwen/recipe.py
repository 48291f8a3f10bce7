"""The numbers of the run that made the second instrument. Change one and it is another checkpoint."""

from __future__ import annotations

from instruments.llava.course import Course
from instruments.llava.lessons import Lesson
from instruments.llava.stage import Stage
from instruments.qwen.anatomy import FRAME

TOKENS = FRAME.tokens
HARD = ("relation", "count", "plate")
WINDOWS = Stage("windows", steps=600, micro=4, scenes=4, rate=1e-3, warmup=100, decay=0.15)
IMAGES = Stage("images", steps=250, micro=4, scenes=3, rate=0.8e-3, warmup=30, decay=0.5)
NAMES = Lesson(
    Stage("names", steps=80, micro=4, scenes=4, rate=2e-3, warmup=10), 130_000_000, budgets=(TOKENS,), answer=False
)
SHOWN = Lesson(
    Stage("shown", steps=350, micro=2, scenes=4, rate=1.5e-3, warmup=20, decay=0.0, check_every=100),
    140_000_000,
    budgets=(TOKENS,),
    tiers=("simple", "medium"),
    pointing=0.3,
)
FEW = Lesson(
    Stage("few", steps=250, micro=2, scenes=4, rate=1.5e-3, warmup=20, decay=0.0, check_every=100),
    150_000_000,
    budgets=(TOKENS,),
    pointing=0.25,
    spelling=True,
)
HOPS = Lesson(
    Stage("hops", steps=300, micro=2, scenes=4, rate=1.5e-3, warmup=20, decay=0.0, check_every=100),
    160_000_000,
    budgets=(TOKENS,),
    pointing=0.25,
    spelling=True,
    favoured=HARD,
)
ALL = Lesson(
    Stage("all", steps=250, micro=2, scenes=4, rate=0.8e-3, warmup=10, decay=1.0, check_every=100),
    170_000_000,
    budgets=(TOKENS,),
    favoured=HARD,
)


PLACING = {"shown": 1.0, "few": 3.0, "hops": 3.0}
"""Weight of the probe for rows and columns, by lesson: at 1 the decoder was slow to learn where tokens are."""

RECIPE = Course(WINDOWS, IMAGES, (NAMES, SHOWN, FEW, HOPS, ALL))
"""All 144 visual tokens in every lesson."""
