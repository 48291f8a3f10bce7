"""The training loop: the same on one CPU, one GPU or many, and the same whether or not it was interrupted.

Nothing random outlives an update: order and noise come from the seed, the update's number and the process's, so a run
that goes on from a saved state is the run that never stopped.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate import files
from foveate.errors import FoveateError, install
from foveate.pointer.train import state
from foveate.pointer.train.curves import plot
from foveate.pointer.train.interrupt import Waiting
from foveate.pointer.train.recipe import Recipe
from foveate.pointer.train.task import Task
from foveate.pointer.train.trainee import Trainee

Curve = list[dict[str, Any]]
Check = Callable[[Any], dict[str, float]]
"""Figures of the selector as it would be used: hard, on held-out images."""
STATE = "state.safetensors"


def train(
    task: Task,
    model: nn.Module,
    selector: Any,
    recipe: Recipe,
    folder: Path,
    check: Check | None = None,
    accelerator: Any = None,
    tick: Callable[[int], None] | None = None,
    stop_after: int | None = None,
    trainee_of: Callable[..., Any] = Trainee,
    of: Mapping[str, Any] | None = None,
) -> Curve:
    """Train `selector` in place in front of the frozen `model`; goes on from `folder`'s state, if there is one.

    Args:
        task: what to be right about.
        model: what the task asks; its parameters stop wanting gradients.
        selector: a PointerSelector or a OneShotSelector whose channel statistics are set.
        recipe: how.
        folder: for the state and the curves; must exist.
        check: called every `recipe.check_every` updates and after the last; the soft loss does not tell what hard
            selections are worth.
        accelerator: accelerate's, for more than one device and mixed precision.
        tick: told how many updates are done.
        stop_after: end the call after so many updates in all; the next call goes on.
        trainee_of: what makes the loss: `Trainee`, or `Lesson`.
        of: marks of the data and the model, by name; a state is gone on with by a call that gives the same.

    Ctrl-C and SIGTERM end it after the update that is being made, with its state on disk.

    Returns:
        The curve, a row every 10 updates and for each check.

    Raises:
        FoveateError: the folder holds the state of a run with other settings, data or model, or the loss is no number.
        KeyboardInterrupt: the state is saved.
    """
    accelerator = accelerator or make_accelerator(recipe)
    trainee = trainee_of(task, model, selector, recipe, lambda x: accelerator.reduce(x, "sum"))
    optimizer: Any = torch.optim.AdamW(_groups(trainee, recipe), lr=recipe.rate, betas=(0.9, 0.98))
    wrapped, optimizer = accelerator.prepare(trainee, optimizer)
    bare = optimizer.optimizer
    key = {"recipe": asdict(recipe), "config": asdict(selector.config), "processes": accelerator.num_processes}
    key |= {"of": dict(of)} if of else {}
    path, curve, done, spent = folder / STATE, [], 0, 0.0
    if path.exists():
        tensors, facts = state.read(path)
        if _decisive(facts["run"]) != _decisive(json.loads(json.dumps(key))):
            raise FoveateError(f"{path} belongs to a run with other settings; choose another folder, or delete it")
        if strange := sorted(k for k, v in facts["run"].get("of", {}).items() if of and of.get(k) != v):
            other = " and ".join(f"other {what}" for what in strange)
            raise FoveateError(f"{path} belongs to a run with {other}; choose another folder, or delete it")
        state.restore(trainee, bare, tensors)
        curve, done, spent = facts["curve"], facts["step"], facts["seconds"]
    end = min(recipe.steps, stop_after or recipe.steps)
    began = time.monotonic()
    with Waiting() as waiting:
        while done < end:
            figures = _update(accelerator, wrapped, trainee, optimizer, recipe, done)
            done += 1
            seconds = spent + time.monotonic() - began
            if done % 10 == 0 or done <= 3:
                row = {k: round(v, 5) for k, v in figures.items()}
                curve.append({"step": done, "seconds": round(seconds, 2), **row})
            if check is not None and (done % recipe.check_every == 0 or done == recipe.steps):
                selector.eval()
                curve.append({"step": done} | {f"hard_{k}": round(v, 5) for k, v in check(selector).items()})
            stop = waiting.agreed(accelerator)
            if done % recipe.save_every == 0 or done == end or stop:
                tensors = state.gather(trainee, bare)
                if accelerator.is_main_process:
                    facts = {"run": key, "step": done, "seconds": seconds, "curve": curve}
                    state.write(path, tensors, facts)
            if tick is not None:
                tick(done)
            if stop:
                raise KeyboardInterrupt
    if accelerator.is_main_process:
        files.write(folder / "curves.json", (json.dumps(curve, indent=1) + "\n").encode())
        plot(curve, selector.config.budget, folder / "curves.png")
    selector.eval()
    return curve


def _decisive(run: dict[str, Any]) -> dict[str, Any]:
    """What decides the outcome of a run: not how often it is saved, nor a setting that came later and is at rest."""
    rest = json.loads(json.dumps(asdict(Recipe())))
    told = {k: v for k, v in run["recipe"].items() if k != "save_every" and (k not in rest or rest[k] != v)}
    return {k: v for k, v in run.items() if k != "of"} | {"recipe": told}


def make_accelerator(recipe: Recipe, cpu: bool = False, precision: str = "no") -> Any:
    """accelerate's Accelerator for this recipe.

    Raises:
        FoveateError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
    except ImportError:
        raise FoveateError(f"training needs accelerate: {install('train')}") from None
    return Accelerator(cpu=cpu, mixed_precision=precision, gradient_accumulation_steps=recipe.accumulate)


def _update(
    accelerator: Any, wrapped: Any, trainee: Any, optimizer: Any, recipe: Recipe, step: int
) -> dict[str, float]:
    """One update; the means of its figures over micro-batches and processes."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate * recipe.factor(step) * group["share"]
    trainee.begin()
    trainee.train()
    seen: list[dict[str, Tensor]] = []
    norm = torch.zeros(())
    for micro in range(recipe.accumulate):
        part = (step * recipe.accumulate + micro) * accelerator.num_processes + accelerator.process_index
        with accelerator.accumulate(wrapped):
            loss, figures = wrapped(numbers(trainee.task.size, recipe, part), step, _seed(recipe.seed, part))
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_([p for p in trainee.parameters() if p.requires_grad], recipe.clip)
            optimizer.step()
            optimizer.zero_grad()
        seen.append(figures)
    means = {k: accelerator.reduce(torch.stack([f[k] for f in seen]).mean(), "mean") for k in seen[0]}
    out = {k: float(v) for k, v in means.items()} | {"norm": float(norm)}
    if not all(v == v for v in out.values()):
        raise FoveateError(
            f"the loss is no number at update {step + 1}; lower the rate, or train in bfloat16 or float32"
        )
    return out


def numbers(size: int, recipe: Recipe, part: int) -> list[int]:
    """What micro-batch number `part` of the whole run looks at: each epoch in an order of its own."""
    return [n for _, n in zip(range(recipe.batch), _endless(size, recipe.seed, part * recipe.batch), strict=False)]


def _endless(size: int, seed: int, start: int) -> Iterator[int]:
    epoch, place = divmod(start, size)
    while True:
        generator = torch.Generator().manual_seed(_seed(seed, -1 - epoch))
        yield from torch.randperm(size, generator=generator).tolist()[place:]
        epoch, place = epoch + 1, 0


def _seed(seed: int, part: int) -> int:
    # Odd multipliers of Knuth's kind: neighbouring runs and parts must not share a stream.
    return (seed * 0x9E3779B97F4A7C15 + part * 0xD1B54A32D192ED03 + 1) % 2**63


def _groups(trainee: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices decay; biases, gains and single numbers do not. What a lesson taught moves less."""
    taught = {id(p) for p in trainee.selector.taught()} if recipe.teach else set()
    learned = [p for p in trainee.parameters() if p.requires_grad]
    kinds = [(known, flat) for known in (False, True) for flat in (False, True)]
    found = [
        {
            "params": [p for p in learned if (id(p) in taught) == known and (p.ndim <= 1) == flat],
            "weight_decay": 0.0 if flat else recipe.decay,
            "share": recipe.afterwards if known else 1.0,
        }
        for known, flat in kinds
    ]
    return [group for group in found if group["params"]]
