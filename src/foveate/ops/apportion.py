"""A number of tokens divided among images by size, so that more tokens never mean fewer for anybody."""

import heapq
from collections.abc import Sequence

from foveate.errors import PlanError


def share(total: int, sizes: Sequence[int], least: int = 1, weights: Sequence[float] | None = None) -> list[int]:
    """At most `total` tokens over images of these sizes, in proportion to them, none beyond its size.

    Each next token goes to the image that is furthest below its share (Sainte-Laguë's rule), of equal ones to the
    first: with a larger total nobody gets less, which rounding each share by itself does not promise.

    Args:
        total: how many there are to give.
        sizes: tokens of each image.
        least: what every image gets first, or all it has.
        weights: times which sizes are the proportion, above 0; none is 1 for all.

    Raises:
        PlanError: the total does not reach for the least of all.
    """
    out = [min(least, n) for n in sizes]
    if sum(out) > total:
        raise PlanError(
            f"{total} tokens for a prompt of {len(sizes)} images, but {least} of each are {sum(out)}; ask for at "
            f"least {sum(out)}, or for a fraction of the tokens"
        )
    parts = sizes if weights is None else [n * w for n, w in zip(sizes, weights, strict=True)]
    waiting = [((k + 0.5) / parts[i], i) for i, (k, n) in enumerate(zip(out, sizes, strict=True)) if k < n]
    heapq.heapify(waiting)
    for _ in range(min(total, sum(sizes)) - sum(out)):
        _, i = waiting[0]
        out[i] += 1
        if out[i] < sizes[i]:
            heapq.heapreplace(waiting, ((out[i] + 0.5) / parts[i], i))
        else:
            heapq.heappop(waiting)
    return out
