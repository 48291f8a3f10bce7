"""The Hugging Face engine: a stock model and its processor, asked with and without a plan, and timed part by part."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from PIL import Image

from foveate.engines.answer import Answer, Comparison, Times
from foveate.engines.loading import TINY, Engine, Facts, check_device, check_dtype, fingerprint, load, look
from foveate.engines.prompting import Prompt, prepare
from foveate.engines.stopwatch import Stopwatch
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.hf.families import family
from foveate.plan import Plan

__all__ = [
    "TINY",
    "Answer",
    "Comparison",
    "Engine",
    "Facts",
    "Prompt",
    "Times",
    "ask",
    "check_device",
    "check_dtype",
    "compare",
    "fingerprint",
    "load",
    "look",
    "prepare",
]


def ask(
    engine: Engine,
    images: Sequence[Image.Image],
    prompt: str,
    plan: Plan | None = None,
    max_new_tokens: int = 64,
) -> Answer:
    """One answer, decoded greedily.

    Args:
        engine: from `load`.
        images: RGB pictures in the order in which the prompt meets them; may be empty.
        prompt: the question alone; template and image placeholders are added.
        plan: what to drop; None runs the model as it is.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        FoveateError: the plan does not apply to this model or prompt.
    """
    return _run(engine, prepare(engine, images, prompt), plan, max_new_tokens)


def compare(
    engine: Engine,
    images: Sequence[Image.Image],
    prompt: str,
    plan: Plan,
    max_new_tokens: int = 64,
    repeats: int = 3,
) -> Comparison:
    """Ask with and without the plan, side by side.

    Both are warmed up first, then run in turns, so that a machine that slows down slows down both; the model, its
    attention kernel and its inputs are the same objects throughout. Answers and reports are those of the last turn.

    Raises:
        FoveateError: the plan does not apply, or repeats is below 1.
    """
    if repeats < 1:
        raise FoveateError(f"repeats is {repeats}; at least 1 run is needed")
    ready = prepare(engine, images, prompt)
    # The pruned run goes first: a plan that does not apply should not cost an unpruned answer.
    for way in (plan, None):
        _run(engine, ready, way, max_new_tokens)
    turns = [
        (_run(engine, ready, None, max_new_tokens), _run(engine, ready, plan, max_new_tokens)) for _ in range(repeats)
    ]
    plain, pruned = (_with_median([t[i] for t in turns]) for i in (0, 1))
    return Comparison(plain, pruned, repeats)


def _with_median(answers: Sequence[Answer]) -> Answer:
    parts = ("encode", "select", "prefill", "decode")
    return replace(answers[-1], times=Times(*(median(getattr(a.times, p) for a in answers) for p in parts)))


def _run(engine: Engine, prompt: Prompt, plan: Plan | None, max_new_tokens: int) -> Answer:
    model = engine.model
    with ExitStack() as stack:
        attachment = stack.enter_context(attach(model, plan, tail=prompt.tail)) if plan else None
        clock = stack.enter_context(Stopwatch(model))
        with torch.inference_mode():
            # Greedy, whatever generation_config says: sampling would compare dice. None silences its warnings.
            output = model.generate(
                **prompt.inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        clock.stop()
        report = attachment.report if attachment else None
    new = output[0, prompt.tokens :]
    text = engine.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    times = clock.times(report)
    return Answer(text, len(new), prompt.tokens, _visual_tokens(model, prompt), times, report)


def _visual_tokens(model: Any, prompt: Prompt) -> int:
    kinds = (family(model).token_id(model.config, kind) for kind in ("image", "video"))
    ids = [i for i in kinds if i is not None]
    return int(torch.isin(prompt.inputs["input_ids"], torch.tensor(ids, device=model.device)).sum())
