"""What a pass comes to: the report, from what was cut and what the cache holds."""

from collections.abc import Iterable, Sequence
from typing import Any

from foveate.errors import PlanError
from foveate.hf.clock import Seconds
from foveate.hf.prompt import Image, Prompt
from foveate.hf.report import CutReport, ImageReport, Report
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
            tuple(CutReport(at, asked, alive) for at, asked, alive in image.cuts),
            per_layer(image, depth),
        )
        for image in prompt.images
    )
    # Read when somebody asks: the pass has not ended on its device.
    lost = (prompt.loose_BL & ~prompt.alive_BL).sum(1)
    widths = [step.l if s.index_BM is None else s.index_BM.shape[1] for s in step.of_layer]
    return Report(
        images,
        step.b * step.l * depth,
        step.b * sum(widths),
        entry_bytes(cache),
        flops(step, [step.l] * depth),
        flops(step, widths),
        lost,
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
    try:
        shape = LayerShape.of(step.lm.config)
    except (AttributeError, TypeError, PlanError):
        return None
    return step.b * sum(shape.flops(n, step.past) for n in widths)


def per_layer(image: Image, depth: int) -> tuple[int, ...]:
    """How many of an image's tokens each decoder layer sees."""
    left = {at: len(alive) for at, _, alive in image.cuts}
    count = left.get("input", left.get("encoder", image.tokens))
    counts = []
    for layer in range(depth):
        count = left.get(layer, count)
        counts.append(count)
    return tuple(counts)


def entry_bytes(cache: Any) -> int:
    """Bytes of one token's keys and values in one layer; 0 without a cache."""
    layer = cache.layers[0] if cache is not None and cache.layers else None
    keys = getattr(layer, "keys", None)
    return 0 if keys is None else 2 * keys.shape[1] * keys.shape[3] * keys.element_size()
