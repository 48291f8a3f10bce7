"""Many examples, a batch at a time: what the model says, how sure it is, and what the plan left, example by example."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.engines.prompting import Prompt, closing, ends, prepare_batch
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.hf.encodings import Features
from foveate.hf.report import ImageReport
from foveate.plan import Plan

_GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


@dataclass(frozen=True)
class Scored:
    """What came of one example.

    Args:
        text: the greedy answer.
        new_tokens: its tokens, the end token counted.
        first_V: log-probabilities of the first answer token, float32 on the CPU.
        images: what the plan left of each picture; empty without a plan.
    """

    text: str
    new_tokens: int
    first_V: Tensor
    images: tuple[ImageReport, ...] = ()

    @property
    def budget(self) -> float:
        """Mean visual tokens per layer, summed over the pictures; 0 without a plan."""
        return sum(i.budget for i in self.images)


def prepare_examples(engine: Engine, examples: Sequence[Example]) -> Prompt:
    """Inputs for a batch of examples."""
    return prepare_batch(engine, [(e.pictures(), e.question) for e in examples])


def answer(
    engine: Engine, examples: Sequence[Example], plan: Plan | None = None, max_new_tokens: int = 64
) -> list[Scored]:
    """Greedy answers to one batch.

    Args:
        engine: from `load`.
        examples: as many as fit into memory together.
        plan: what to drop; None runs the model as it is.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        FoveateError: a picture cannot be read, or the plan does not apply.
    """
    return answer_prompt(engine, prepare_examples(engine, examples), plan, max_new_tokens)


def answer_prompt(
    engine: Engine,
    prompt: Prompt,
    plan: Plan | None = None,
    max_new_tokens: int = 64,
    features: Features | None = None,
) -> list[Scored]:
    """`answer` for inputs that are prepared already, so that several plans can share them.

    With `features`, an empty dict at first, they share what the encoder made of the pictures as well.
    """
    output, images = _generate(engine, prompt, plan, max_new_tokens, [], features)
    first_BV = output.logits[0].float().log_softmax(-1).cpu()
    if bool(first_BV.isnan().any()):
        dtype = str(engine.model.dtype).removeprefix("torch.")
        raise FoveateError(f"the model's scores are no numbers in {dtype}; load it in another dtype, such as float32")
    new_BT = output.sequences[:, prompt.tokens :]
    last = ends(engine.model)
    scored = []
    for row, ids in enumerate(new_BT.tolist()):
        length = next((i + 1 for i, token in enumerate(ids) if token in last), len(ids))
        text = engine.processor.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        scored.append(Scored(text, length, first_BV[row], tuple(i for i in images if i.row == row)))
    return scored


def likelihood(engine: Engine, examples: Sequence[Example], plan: Plan | None = None) -> list[float]:
    """Mean log-probability per token, the end token included, of each example's first answer.

    The answer is forced upon `generate` token by token, so that positions, caches and cuts are those of real decoding
    in every family.

    Raises:
        FoveateError: an example has no answer.
    """
    if bare := [e.id for e in examples if not e.answers]:
        raise FoveateError(f"example {bare[0]} has no answer, so none can be likely; leave it out, or add one")
    prompt = prepare_examples(engine, examples)
    end = closing(engine)
    # As the model would have to write it: after a template that ends without a space, or with one.
    rows = [engine.processor.tokenizer(e.answers[0], add_special_tokens=False)["input_ids"] for e in examples]
    rows = [[*row, *end] for row in rows]
    if not all(rows):
        raise FoveateError("an answer has no tokens; give it at least one word")
    force = _Force(rows, engine.model.device)
    _generate(engine, prompt, plan, max(map(len, rows)), [force])
    return [float(x) for x in force.means()]


class _Force(LogitsProcessor):  # type: ignore[misc]
    """Writes down how likely the wanted token is, then leaves no other."""

    def __init__(self, rows: Sequence[Sequence[int]], device: torch.device) -> None:
        width = max(map(len, rows))
        self.want_BT = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows], device=device)
        self.length_B = torch.tensor([len(row) for row in rows], device=device)
        self.total_B = torch.zeros(len(rows), device=device)
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        want_B1 = self.want_BT[:, self.step, None]
        said_B = scores.float().log_softmax(-1).gather(1, want_B1)[:, 0]
        self.total_B += said_B * (self.step < self.length_B)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, want_B1, 0.0)

    def means(self) -> list[float]:
        return (self.total_B / self.length_B).tolist()


def _generate(
    engine: Engine,
    prompt: Prompt,
    plan: Plan | None,
    longest: int,
    processors: list[LogitsProcessor],
    features: Features | None = None,
) -> tuple[Any, tuple[ImageReport, ...]]:
    context: Any = nullcontext() if plan is None else attach(engine.model, plan, tail=prompt.tail)
    with context as attached, torch.inference_mode():
        if attached is not None:
            attached.features = features
        output = engine.model.generate(
            **prompt.inputs,
            **_GREEDY,
            max_new_tokens=longest,
            return_dict_in_generate=True,
            output_logits=True,
            logits_processor=LogitsProcessorList(processors),
        )
    report = attached.report if attached is not None else None
    return output, report.images if report else ()
