"""What a frozen model looks at when it is about to answer: attention from a prompt's last token to its pictures.

One pass without gradients, as far as the last layer asked for; no answer is needed. The kernel stays what it is: the
row is computed from a layer's projections, or listened to, as for methods that cut by it.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveate.engines.loading import Engine
from foveate.engines.prompting import Prompt
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.hf.raters import rater_attention
from foveate.pointer.train.partway import EVERYTHING, Enough, run_partway
from foveate.selection import Attention

_LAST = Attention("last", "own")


@torch.no_grad()
def gazes(engine: Engine, prompt: Prompt, layers: Sequence[int]) -> list[list[Tensor]]:
    """Shares of the last token's attention, head mean: for each picture of each prompt [layers, N].

    Args:
        engine: the model.
        prompt: prompts that end where an answer begins.
        layers: decoder layers, by number.

    Raises:
        FoveateError: the model has no such layer.
        SignalError: a layer's attention cannot be read.
    """
    rows: dict[int, Tensor] = {}
    with attach(engine.model, EVERYTHING, tail=prompt.tail) as attached:
        if not layers or not all(0 <= i < len(attached.lm.layers) for i in layers):
            raise FoveateError(f"layers are {list(layers)}; the model has 0 to {len(attached.lm.layers) - 1}")

        def note(number: int, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            told = dict(zip(attached.names[number], args, strict=False)) | kwargs
            cutting: Any = attached.run.cutting  # type: ignore[union-attr]
            rows[number] = rater_attention(
                cutting.step, cutting.prompt, _LAST, number, layer, told, attached.projections
            )
            if number == max(layers):
                images.extend(cutting.prompt.images)
                raise Enough

        images: list[Any] = []
        run_partway(engine.model, prompt.inputs, [(attached.lm.layers[i], partial(note, i)) for i in set(layers)])
    found: list[list[Tensor]] = [[] for _ in range(len(prompt.inputs["input_ids"]))]
    for image in images:
        found[image.row].append(torch.stack([rows[i][image.row, image.place_N] for i in layers]))
    return found


def teaching(engine: Engine, prompts: Iterable[Prompt]) -> list[int]:
    """The layers in which the last tokens of these prompts look most at their pictures; see `readers`."""
    every = range(engine.facts.depth)
    return readers(torch.stack([torch.cat(of, 1).sum(1) for p in prompts for of in gazes(engine, p, every)]).mean(0))


def readers(share_L: Tensor) -> list[int]:
    """Layers that teach: those that give pictures at least half of what the one gives that gives them most.

    Not the first: its query is the template's last token, which has seen neither picture nor question yet.

    Args:
        share_L: the last token's attention to pictures in each layer, mean over prompts.
    """
    later_L = share_L.clone()
    later_L[0] = 0.0
    return (later_L >= later_L.max() / 2).nonzero().flatten().tolist() if len(share_L) > 1 else [0]
