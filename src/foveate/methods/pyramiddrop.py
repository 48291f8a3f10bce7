"""Drop a share of the tokens at each of a few LLM layers, by the attention of the last prompt token there.

PyramidDrop, arXiv 2410.17247. Compared with Cooperx521/PyramidDrop @ 6444f304aee4b7edcb022839fb9e8cd07859704a
(`pdrop_rank_drop`, inference): the cut layer's own queries and keys, with rotary positions, for the last prompt token
alone; head mean; top k. Same indices on every stored case.

The paper gives a ratio: half stay at each of layers 8, 16, 24 of 32, a mean of 0.469 over the layers. Everyone who
compares at smaller budgets must change that, and papers do not say how. Here `keep` as a fraction IS the mean over
the layers, and the ratio follows; where the paper's layers would have to drop more than three quarters at once, all
stages move towards the front (unless `layers` says where they are).

Differences: counts round half up (the release: down); the release renumbers positions after each stage, here that
is the family's or the plan's choice.
"""

from foveate.cut import Cut, check_keep
from foveate.errors import PlanError
from foveate.methods.fastv import TextAttention
from foveate.ops.budget import solve_ratio, spans
from foveate.plan import Plan
from foveate.selection import Attention
from foveate.typed import checked

# Fewer than this share at one stage, and the stages move to earlier layers instead.
_HARDEST = 0.25


@checked
def pyramiddrop(
    keep: float | int | None = None,
    ratio: float | None = None,
    layers: tuple[int, ...] | None = None,
    depth: int | None = None,
) -> Plan:
    """PyramidDrop: attention top-k at several layers inside the LLM.

    Args:
        keep: a fraction is the mean over all layers of the share that stays. A number is how many stay after the LAST
            stage (the mean would depend on the image's size), each stage before it holding 1 / ratio times as many.
        ratio: the share of its tokens that each stage keeps, the paper's lambda. Given alone it is used as it is; with
            a fraction as keep it is solved for, so give one or the other. For a number as keep it is 0.5 if not given.
        layers: stages come before these decoder layers, counted from 0. By default at 1/4, 1/2 and 3/4 of the depth, or
            earlier as said above.
        depth: decoder layers of the LLM. Without it (and without layers) the plan is laid out for 32 and its places are
            fractions of the depth: it fits any model, and a fraction as keep stays the mean where it can be met.

    Raises:
        PlanError: neither keep nor ratio, both, a ratio outside (0, 1], layers outside the model, or a mean below
            what the layers before the first stage cost.
    """
    select = TextAttention(Attention("last", "own"))
    any_depth = depth is None and layers is None
    depth = 32 if depth is None else depth
    if keep is not None:
        keep = check_keep(keep)
    if ratio is not None and not 0 < ratio <= 1:
        raise PlanError(f"ratio is {ratio}; each stage keeps a share in (0, 1]")
    if isinstance(keep, float):
        if ratio is not None:
            raise PlanError(
                f"keep={keep} is the mean over layers and fixes the ratio; give keep or ratio={ratio}, not both"
            )
        layers = layers or _layers(keep, depth)
        share = 1.0 if keep == 1 else solve_ratio(keep, spans(layers, depth))
        keeps: list[float | int] = [share ** (i + 1) for i in range(len(layers))]
    else:
        if keep is None and ratio is None:
            raise PlanError(
                "pyramiddrop needs keep, the mean share over layers, or ratio, the share kept at each stage"
            )
        share = 0.5 if ratio is None else ratio
        layers = layers or _stages(depth / 4, depth)
        last = len(layers) - 1
        keeps = [
            share ** (i + 1) if keep is None else int(keep * share ** (i - last) + 0.5) for i in range(len(layers))
        ]
    if not layers:
        raise PlanError(f"depth is {depth}; PyramidDrop cuts inside the LLM and needs at least 2 decoder layers")
    spans(layers, depth)
    plan = Plan(tuple(Cut(layer, select, k) for layer, k in zip(layers, keeps, strict=True)))
    if not any_depth:
        return plan
    return plan.relative(depth, keep if isinstance(keep, float) else None)


def _stages(step: float, depth: int) -> tuple[int, ...]:
    """Three evenly spaced layers, fewer in a model too shallow for three."""
    first = max(1, int(step + 0.5))
    return tuple(sorted({max(first, int(step * i + 0.5)) for i in (1, 2, 3)} & set(range(depth))))


def _layers(keep: float, depth: int) -> tuple[int, ...]:
    """The paper's layers, or the latest earlier ones that need not drop more than three quarters at a stage."""
    steps = [depth / 4, *range(max(1, int(depth / 4 + 0.5)) - 1, 0, -1)]
    layers: tuple[int, ...] = ()
    for step in steps:
        layers = _stages(step, depth)
        span = spans(layers, depth)
        if keep * depth > span[0] and solve_ratio(keep, span) >= _HARDEST:
            break
    return layers
