"""Examples as batches that are asked again and again: inputs, answers to force, and what is worth keeping of a pass."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.data import Example
from foveate.engines.loading import Engine
from foveate.engines.score import prepare_examples
from foveate.hf.encodings import Encoding, Features
from foveate.search.resume import Arrival


@dataclass
class Batch:
    """Examples of about the same length.

    Args:
        numbers: their places in the data.
        examples: the examples.
        inputs: of the model, for the prompts alone.
        tail: prompt tokens after the question.
        features: what the encoder made of the pictures.
        arrival: where the decoder can start.
    """

    numbers: list[int]
    examples: list[Example]
    inputs: dict[str, Any]
    tail: int
    features: Features = field(default_factory=dict)
    arrival: Arrival | None = None

    @property
    def mask_BL(self) -> Tensor:
        """Padding mask of the prompts."""
        ids: Tensor = self.inputs["input_ids"]
        given = self.inputs.get("attention_mask")
        return torch.ones_like(ids, dtype=torch.bool) if given is None else given.bool()


@dataclass(frozen=True)
class Forced:
    """Inputs with an answer behind each prompt."""

    inputs: dict[str, Any]
    lengths_B: Tensor
    """Tokens of each answer."""
    want_BT: Tensor
    """The answers, aligned on the right; -1 before shorter ones."""


def batches(engine: Engine, examples: Sequence[Example], size: int) -> list[Batch]:
    """All examples, the longest questions first, so that memory runs out at once or never."""
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].images), -len(examples[i].question), i))
    out = []
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        some = [examples[i] for i in numbers]
        prompt = prepare_examples(engine, some)
        out.append(Batch(numbers, some, prompt.inputs, prompt.tail))
    return out


def some(batch: Batch, rows: Sequence[int]) -> Batch | None:
    """Some rows of a batch, with what the encoder made of them; None where rows and images cannot be told apart here.

    They can where every prompt has one picture and each input one entry a prompt.
    """
    size = len(batch.numbers)
    if any(len(e.images) != 1 for e in batch.examples):
        return None
    if any(not isinstance(v, Tensor) or len(v) != size for v in batch.inputs.values()):
        return None
    features: Features = {}
    for kind, (output, encoding) in batch.features.items():
        if set(output.keys()) != {"pooler_output"} or not len(output.pooler_output) == len(encoding.images) == size:
            return None
        part = Encoding(encoding.owner, [encoding.units[r] for r in rows])
        part.images = [encoding.images[r] for r in rows]
        features[kind] = type(output)(pooler_output=[output.pooler_output[r] for r in rows]), part
    return Batch(
        [batch.numbers[r] for r in rows], [batch.examples[r] for r in rows],
        {name: value[list(rows)] for name, value in batch.inputs.items()}, batch.tail, features,
    )  # fmt: skip


def force(batch: Batch, answers: Sequence[Sequence[int]], pad: int, kind: int = 0) -> Forced:
    """Put an answer behind each prompt of a batch, and even the rows out on the left.

    `kind` is what `token_type_ids` calls an answer's tokens: PaliGemma's prompt sees itself both ways, its answer not.
    """
    ids_BL, mask_BL = batch.inputs["input_ids"], batch.mask_BL
    rows = [int(m.sum()) + len(a) for m, a in zip(mask_BL, answers, strict=True)]
    width, device = max(rows), ids_BL.device
    inputs = dict(batch.inputs)
    for name, value in batch.inputs.items():
        if not isinstance(value, Tensor) or value.shape != ids_BL.shape:
            continue
        fill = {"input_ids": pad}.get(name, 0)
        grown = value.new_full((len(rows), width), fill)
        for i, answer in enumerate(answers):
            own = value[i][mask_BL[i]]
            grown[i, width - rows[i] : width - len(answer)] = own
            if name == "input_ids":
                grown[i, width - len(answer) :] = torch.tensor(answer, device=device)
            elif name == "token_type_ids":
                grown[i, width - len(answer) :] = kind
        inputs[name] = grown
    slots = torch.arange(width, device=device)
    begins = torch.tensor([width - r for r in rows], device=device)
    inputs["attention_mask"] = (slots >= begins[:, None]).long()
    longest = max(map(len, answers))
    want = torch.tensor([[-1] * (longest - len(a)) + list(a) for a in answers], device=device)
    return Forced(inputs, torch.tensor([len(a) for a in answers], device=device), want)
