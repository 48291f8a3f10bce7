"""What the training of either instrument goes through in turn, and the command that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

from foveate.engines.loading import check_device
from foveate.errors import FoveateError
from instruments.llava.lessons import Lesson
from instruments.llava.stage import Stage


@dataclass(frozen=True)
class Course:
    """Two stages of the vision tower, then lessons of what reads it."""

    windows: Stage
    images: Stage
    lessons: tuple[Lesson, ...]
    seed: int = 0

    def shortened(self, steps: int) -> Self:
        """The same course with at most `steps` steps a stage, to see that everything runs."""

        def cut(stage: Stage) -> Stage:
            return replace(stage, steps=min(steps, stage.steps), check_every=max(steps, 1))

        lessons = tuple(replace(lesson, stage=cut(lesson.stage)) for lesson in self.lessons)
        return replace(self, windows=cut(self.windows), images=cut(self.images), lessons=lessons)


C = TypeVar("C", bound=Course)


def command(name: str, text: str | None, train: Callable[[Path, C, int, str], Path], course: C) -> None:
    """Read the command line of `python -m name` and train."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=text)
    parser.add_argument("--out", type=Path, required=True, help="folder for states, curves and the checkpoint")
    parser.add_argument("--device", default="cpu", help="where the weights are: cpu (default), cuda, cuda:1, auto, ...")
    parser.add_argument(
        "--processes", type=int, default=2, help="one-thread processes that share the work; for a GPU, that draw scenes"
    )
    parser.add_argument("--seed", type=int, help="of the weights' first values, instead of the recipe's")
    parser.add_argument("--at-most", type=int, help="cap the steps of every stage, to try the whole way quickly")
    args = parser.parse_args()
    try:
        device = str(check_device(args.device))
    except FoveateError as error:
        parser.error(str(error))
    course = course if args.at_most is None else course.shortened(args.at_most)
    course = course if args.seed is None else replace(course, seed=args.seed)
    print(train(args.out, course, args.processes, device))
