"""What a pass comes to: the report, from what was cut and what the cache holds."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache

from foveate.hf.clock import Seconds
from foveate.hf.cut_layers import Cuttable, holds_keys
from foveate.hf.prompt import Image, Prompt
from foveate.hf.report import CutReport, Held, ImageReport, Report
from foveate.hf.step import Step
from foveate.ops.flops import LayerShape


def account(step: Step, prompt: Prompt, cache: Any, encoding: Iterable[Seconds]) -> Report:
    """The report of a pass that has just ended; `encoding` is what encoding spent on choosing."""
    depth = len(step.of_layer)
    images = tuple(
        ImageReport(
            image.row,
            image.number,
            image.kind,
            image.tokens,
            image.grid,
            tuple(CutReport(*cut) for cut in image.cuts),
            per_layer(image, depth),
        )
        for image in prompt.images
    )
    lost = (prompt.loose_BL & ~prompt.alive_BL).sum(1)
    widths = [step.l if s.index_BM is None else s.index_BM.shape[1] for s in step.of_layer]
    return Report(
        images,
        *held(step, cache, widths),
        flops(step, [step.l] * depth),
        flops(step, widths),
        tuple(lost.tolist()),
        tuple(encoding),
        tuple(step.seconds),
    )


def flops(step: Step, widths: Sequence[int]) -> float | None:
    """Operations of decoder layers that see so many tokens each; None where their shape is not known: experts, layers
    that differ, layers that do not attend.

    Tokens of earlier turns count as they stood before anything was cut.
    """
    if not step.family.plain(step.lm):
        return None
    if (shape := LayerShape.of(step.lm.config)) is None:
        return None
    return step.b * sum(shape.flops(n, step.past) for n in widths)


def per_layer(image: Image, depth: int) -> tuple[int, ...]:
    """How many of an image's tokens each decoder layer sees."""
    left = {at: count for at, _, count, _ in image.cuts}
    count = left.get("input", left.get("encoder", image.tokens))
    counts = []
    for layer in range(depth):
        count = left.get(layer, count)
        counts.append(count)
    return tuple(counts)


def held(step: Step, cache: Any, widths: Sequence[int]) -> tuple[Held, Held]:
    """What a cache would hold of a whole pass, and what it holds of one whose layers see so many tokens each.

    Uncut, a layer forgets what has left its window. States of recurrent layers, which do not grow, are not counted, and
    keys that layers share are counted once. Without a cache, what it would hold, of no known size.

    Args:
        step: the pass.
        cache: its cache.
        widths: tokens of each layer, in the order of the pass.
    """
    layers = DynamicCache(config=step.lm.config).layers if cache is None else cache.layers
    each: list[float] = []
    full: list[int] = []
    cut: list[int] = []
    for i, width in zip(step.of_cache, widths, strict=False):
        if i < len(layers) and holds_keys(layer := layers[i]):
            window = getattr(layer, "sliding_window", step.l + 1) - 1
            each.append(entry_bytes(layer))
            full.append(min(step.l, window))
            cut.append(width if isinstance(layer, Cuttable) else min(width, window))
        elif cache is None and not layers:
            # A bare cache grows by the layers that ask for it.
            each.append(0.0)
            full.append(step.l)
            cut.append(width)

    def of(counts: list[int]) -> Held:
        return Held(step.b * sum(counts), round(step.b * sum(n * e for n, e in zip(counts, each, strict=True))))

    return of(full), of(cut)


def entry_bytes(layer: Any) -> float:
    """Bytes of one token in one layer of a cache: keys, values, and what an indexer keeps."""
    size = 0.0
    for name in ("keys", "values", "indexer_keys"):
        x = getattr(layer, name, None)
        if isinstance(x, Tensor) and x.numel():
            size += x.numel() * x.element_size() / (x.shape[0] * x.shape[-2])
    return size
