"""VTW's search: the first layer from which on a model answers the same without its image.

VTW, arXiv 2405.05803: on a few examples the likelihoods of the first answer token, with the image withdrawn before a
layer, are compared with the full model's (Kullback-Leibler divergence); the smallest layer whose mean is below a
threshold is taken. The full model runs once a batch; every layer starts where that pass arrived at it.

Our reading: a layer counts only if no later one is above the threshold again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from foveate.data import Example
from foveate.engines.hf import Engine, load
from foveate.errors import FoveateError
from foveate.hf.attach import attach
from foveate.hf.families import family
from foveate.methods.uniform import uniform
from foveate.methods.vtw import vtw
from foveate.plan import Plan
from foveate.search.cases import Batch, batches
from foveate.search.resume import Arrival, passing


@dataclass(frozen=True)
class Withdrawal:
    """What was found.

    Args:
        layer: the one before which the image goes.
        divergences: in nats, of each layer from 1 on.
    """

    layer: int
    divergences: tuple[float, ...]

    @property
    def plan(self) -> Plan:
        """`vtw` at that layer."""
        return vtw(layer=self.layer)


def withdrawal(
    data: Sequence[Example], engine: Engine | None = None, threshold: float = 0.003, batch: int = 8
) -> Withdrawal:
    """The smallest layer from which on the image is not missed.

    Args:
        data: examples, from `foveate.data.load`; some twenty. Answers are not needed.
        engine: model and processor, from `foveate.engines.hf.load`; None is the embedded model.
        threshold: the largest mean divergence, in nats.
        batch: examples at a time.

    Raises:
        FoveateError: no data or no pictures, a threshold or batch out of range, or every layer is above the threshold.
    """
    if not threshold > 0 or batch < 1:
        raise FoveateError(f"threshold is {threshold} and batch {batch}; above 0, and at least 1")
    if not any(e.images for e in data):
        raise FoveateError(f"{len(data)} examples without a picture miss none; give examples with pictures")
    engine = engine or load()
    parts = [_divergences(engine, b) for b in batches(engine, data, batch)]
    mean_K = torch.cat(parts, 1).mean(1).tolist()
    above = [i for i, x in enumerate(mean_K) if not x < threshold]
    first = above[-1] + 1 if above else 0
    if first == len(mean_K):
        raise FoveateError(
            f"before the last layer, {first}, the answer still differs by {mean_K[-1]:.3g} nats without the image, "
            f"more than the {threshold:g} allowed; allow more, or drop fewer tokens by another method"
        )
    return Withdrawal(first + 1, tuple(mean_K))


@torch.inference_mode()
def _divergences(engine: Engine, batch: Batch) -> Tensor:
    """Of each layer from 1 on and each example: [layers - 1, B]."""
    last = len(family(engine.model).layers(engine.model)) - 1
    arrived = Arrival(last, (), None)
    full_BV = _ask(engine, batch, uniform(1.0), None, arrived)
    out = []
    for at in range(1, last + 1):
        start = Arrival(at, (), None, {i: arrived.states[i] for i in (at - 1, at) if i})
        without_BV = _ask(engine, batch, vtw(layer=at), start, None)
        out.append(kl_div(without_BV, full_BV, reduction="none", log_target=True).sum(-1))
    return torch.stack(out)


def _ask(engine: Engine, batch: Batch, plan: Plan, start: Arrival | None, end: Arrival | None) -> Tensor:
    """Log-likelihoods of the first answer token, [B, V]."""
    layers = family(engine.model).layers(engine.model)
    with attach(engine.model, plan, tail=batch.tail) as attached, passing(layers, start, end, every=True):
        attached.features = batch.features
        out = engine.model(**batch.inputs, use_cache=False, logits_to_keep=1)
    return out.logits[:, -1].float().log_softmax(-1)
