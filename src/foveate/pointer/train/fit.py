"""From a model and a data file to a selector in a folder: train, calibrate, and measure on held-out pictures."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from foveate import data, files
from foveate.cut import Cut
from foveate.data import Example
from foveate.engines.loading import Engine, fingerprint
from foveate.engines.score import answer
from foveate.metrics import exact
from foveate.plan import Plan
from foveate.pointer.config import OneShotConfig, PointerConfig
from foveate.pointer.oneshot import OneShotSelector
from foveate.pointer.selector import PointerSelector
from foveate.pointer.stepwise import StepwiseConfig, StepwiseSelector
from foveate.pointer.train.calibrate import calibrated, dialled, walks
from foveate.pointer.train.examples import Examples
from foveate.pointer.train.lesson import Lesson
from foveate.pointer.train.loop import make_accelerator, train
from foveate.pointer.train.parts import split
from foveate.pointer.train.recipe import Recipe
from foveate.selection import TokenView

SELECTOR, TAUGHT = "selector", "taught"
SHARES = (0.03, 0.056, 0.08, 0.111, 0.16, 0.222, 0.333)
"""Of the dial of a selector of many budgets."""
Config = PointerConfig | OneShotConfig | StepwiseConfig
_CHECKED = 64
_MEASURED = 256


def fit(
    engine: Engine,
    examples: Sequence[Example],
    config: Callable[[int, int], Config],
    recipe: Recipe,
    out: Path,
    precision: str = "no",
    tick: Callable[[int], None] | None = None,
    longest: int = 16,
) -> dict[str, Any]:
    """Train a selector for this model and save it in `out/selector`; goes on from where an earlier call stopped.

    Args:
        engine: the model.
        examples: with answers; see `split`.
        config: the selector, given the width of the tokens and that of the model's words. A `StepwiseConfig`
            trains before the projector, where tokens are the tower's.
        recipe: how to train.
        out: a folder that exists.
        precision: accelerate's mixed precision: "no", "bf16" or "fp16".
        tick: told how many updates are done, those of the first stage among them.
        longest: tokens of an answer at most, where answers are judged.

    Returns:
        What was measured on the held-out part, as plain data; also in `out/results.json`.

    Raises:
        FoveateError: data that cannot be split, settings that are wrong, or a budget that calibration cannot meet.
    """
    parts = split(examples)
    accelerator = make_accelerator(recipe, engine.model.device.type == "cpu", precision)
    words = engine.model.config.get_text_config().hidden_size
    place = "encoder" if isinstance(config(words, words), StepwiseConfig) else "input"
    task, watch, held = (Examples(engine, p, place) for p in (parts.train, parts.watch, parts.held))
    shape = config(task.look([0]).candidates.tokens_BND.shape[-1], words)
    selector = build(shape, recipe.seed, statistics(task)).to(engine.model.device)

    def check(now: Any) -> dict[str, float]:
        judged = _judge(engine, watch.examples[:_CHECKED], plan(now, recipe.room), longest)
        return {"accuracy": fmean(judged.right), "kept": judged.kept}

    of = {"data": data.fingerprint(examples), "model": fingerprint(Path(engine.facts.source))}
    if recipe.teach:
        train(
            task, engine.model, selector, recipe.lesson(), files.folder(out / TAUGHT), None, accelerator, tick,
            trainee_of=Lesson, of=of,
        )  # fmt: skip
    later = tick and (lambda n: tick(recipe.teach + n))
    train(task, engine.model, selector, recipe, out, check, accelerator, later, of=of)
    if selector.knob is not None:
        highest = max(shape.budget, SHARES[-1]) if recipe.spread else shape.budget
        seen = walks(selector, views(watch, "text_BTD" in selector.reads), recipe.room * highest / shape.budget)
        if recipe.spread:
            selector = dialled(selector, seen, SHARES)
        selector = calibrated(selector, seen, shape.budget)
    result = _quote(engine, held.examples, selector, recipe.room, longest)
    if accelerator.is_main_process:
        selector.save_pretrained(out / SELECTOR)
        files.write(out / "results.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def build(config: Config, seed: int, seen: tuple[Tensor, Tensor]) -> Any:
    """A new selector whose weights the seed decides, for tokens of these channel statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kinds: dict[type, Any] = {PointerConfig: PointerSelector, OneShotConfig: OneShotSelector}
        selector = kinds.get(type(config), StepwiseSelector)(config)
    selector.fit(*(t.cpu() for t in seen))
    return selector


def plan(selector: Any, room: float) -> Plan:
    """The selector before the LLM, with room above its mean where it is adaptive."""
    budget = selector.config.budget
    # To keep all is to be asked for all, and not to stop: the room ends before that.
    keep = max(budget, min(0.99, budget * room)) if selector.adaptive else budget
    return Plan((Cut(selector.place, selector, keep),))


def statistics(task: Examples) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel over the tokens of the first examples."""
    means, squares = [], []
    for view in views(task, False, _MEASURED):
        x = view.need("hidden_BND")[0].double()
        means.append(x.mean(0))
        squares.append(x.square().mean(0))
    mean = torch.stack(means).mean(0)
    spread = (torch.stack(squares).mean(0) - mean.square()).clamp(min=0).sqrt()
    return mean.float(), spread.float()


@torch.no_grad()
def views(task: Examples, text: bool, most: int | None = None) -> Iterator[TokenView]:
    """What a selector sees of each picture."""
    for n in range(min(task.size, most or task.size)):
        c = task.look([n]).candidates
        for i in range(len(c.tokens_BND)):
            real = slice(None) if c.real_BN is None else c.real_BN[i]
            said = slice(None) if c.said_BT is None else c.said_BT[i]
            words = c.text_BTD[i : i + 1, said] if text and c.text_BTD is not None else None
            yield TokenView(hidden_BND=c.tokens_BND[i : i + 1, real], text_BTD=words)


@dataclass(frozen=True)
class _Judged:
    right: list[float]
    counts: list[int]
    tokens: list[int]

    @property
    def kept(self) -> float:
        return sum(self.counts) / max(1, sum(self.tokens))


def _judge(engine: Engine, examples: Sequence[Example], chosen: Plan | None, longest: int) -> _Judged:
    """Answers as in use, one by one: exact match, and what was kept of each picture."""
    right, counts, tokens = [], [], []
    for e in examples:
        (said,) = answer(engine, [e], chosen, longest)
        right.append(exact(said.text, e.answers))
        counts += [i.per_layer[-1] for i in said.images]
        tokens += [i.tokens for i in said.images]
    return _Judged(right, counts, tokens)


def _quote(engine: Engine, examples: Sequence[Example], selector: Any, room: float, longest: int) -> dict[str, Any]:
    """Held-out figures with all tokens and with the selector's."""
    full = _judge(engine, examples, None, longest)
    cut = _judge(engine, examples, plan(selector, room), longest)
    dial = {selector.knob.name: getattr(selector.config, selector.knob.name)} if selector.knob else {}
    return {
        "questions": len(examples),
        "budget": selector.config.budget,
        "accuracy_full": fmean(full.right),
        "accuracy": fmean(cut.right),
        "kept": cut.kept,
        "kept_count": {"mean": fmean(cut.counts), "deviation": pstdev(cut.counts), "of": fmean(cut.tokens)},
        **dial,
    }
