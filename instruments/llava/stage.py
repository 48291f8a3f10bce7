"""One stretch of training that can be killed at any step and goes on as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from instruments.llava.accelerator import Accelerator
from instruments.llava.micro import Micro, Named, device_of
from instruments.llava.optimizer import Optimizer
from instruments.llava.state import load_state, save_state
from instruments.llava.workers import Workers

Check = Callable[[int], dict[str, float]]
"""Figures on held-out scenes after so many steps."""
_FLOOR = 0.03


@dataclass(frozen=True)
class Stage:
    """`steps` updates of `micro` micro-batches of `scenes` scenes each; the rate is flat between warm-up and decay.

    A flat rate lets a run be lengthened before its decay begins without having been a different run so far.
    """

    name: str
    steps: int
    micro: int
    scenes: int
    rate: float
    warmup: int = 60
    decay: float = 0.25
    save_every: int = 50
    check_every: int = 100

    def factor(self, step: int) -> float:
        """The share of the base rate for update number `step`, counted from 0."""
        left = (self.steps - step) / max(1.0, self.steps * self.decay)
        return min(1.0, (step + 1) / self.warmup) * max(_FLOOR, min(1.0, left))

    def numbers(self, step: int, micro: int, origin: int) -> range:
        """The scenes of one micro-batch; every scene of a stage is seen once."""
        start = origin + (step * self.micro + micro) * self.scenes
        return range(start, start + self.scenes)


Curve = list[dict[str, Any]]


def run_stage(
    stage: Stage,
    named: Named,
    micro: Micro,
    folder: Path,
    check: Check | None = None,
    processes: int = 2,
    stop_after: int | None = None,
) -> Curve:
    """Train to the end of `stage`, from its saved state if there is one, and return its curve.

    The state is `folder/<name>.safetensors`. `stop_after` ends the call after that many steps in all (for tests and for
    machines that are lent by the hour); the next call goes on. `processes` share the work on a CPU; where the weights
    are on a GPU, they draw the scenes for it.
    """
    path = folder / f"{stage.name}.safetensors"
    optimizer = Optimizer(named, stage.rate)
    curve: Curve = []
    spent = 0.0
    if path.exists():
        tensors, facts = load_state(path)
        optimizer.load(tensors)
        curve, spent = facts["curve"], facts["seconds"]
    end = stage.steps if stop_after is None else min(stop_after, stage.steps)
    if optimizer.steps >= end:
        return curve
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    device = device_of(named)
    gradients_of: Workers | Accelerator
    if device.type == "cpu":
        gradients_of = Workers(named, micro, stage.micro, processes)
    else:
        gradients_of = Accelerator(named, micro, stage.micro, range(optimizer.steps, end), processes)
    with gradients_of as workers, Progress(*columns, transient=True) as progress:
        bar = progress.add_task(stage.name, total=stage.steps, completed=optimizer.steps)
        while optimizer.steps < end:
            gradients, figures = workers.gradients(optimizer.steps)
            norm = optimizer.step(gradients, stage.factor(optimizer.steps))
            done = optimizer.steps
            seconds = spent + time.monotonic() - began
            if done % 10 == 0 or done <= 3:
                row = {"step": done, "seconds": seconds, "norm": norm, **figures}
                curve.append({k: round(v, 4) for k, v in row.items()})
            if check is not None and (done % stage.check_every == 0 or done == stage.steps):
                with device:
                    found = check(done)
                curve.append({"step": done, **{f"val_{k}": round(v, 4) for k, v in found.items()}})
            if done % stage.save_every == 0 or done == end:
                save_state(path, optimizer.state(), step=done, seconds=seconds, curve=curve)
            progress.update(bar, completed=done)
    return curve
