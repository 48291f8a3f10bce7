"""Where TOPS cuts, and how much: the schedules of arXiv 2606.27161 (Table 9), and a rule for other depths."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foveate.errors import PlanError
from foveate.ops.budget import check_floor, mean, solve_shape, spans, whole

Budget = Literal["mean", "table"]
Weights = tuple[float, float]

# In units of the budget T: what the LLM receives, and what stays after each layer inside it.
MEAN_SHAPE = (2.0, 0.5, 0.25)  # 256-64-32 for T = 128: a mean of exactly T over 32 layers cut at 12 and 24
TABLE_SHAPE = (2.0, 1.0, 0.25)  # 256-128-32 as the table prints it: a mean of 1.1875 T
# The table's 512-281-77 for T = 256; its other rows, 256-139-39 and 128-71-19, are within two tokens of this shape.
_QWEN_SHAPE = (2.0, 281 / 256, 77 / 256)


@dataclass(frozen=True)
class Schedule:
    """What the paper says about one model.

    Args:
        depth: decoder layers.
        layers: where Stage II cuts.
        inside: Stage II's (alpha, lam) by the share of tokens kept.
        mean: shape whose mean over the layers is scaled to the budget.
        table: shape as printed, in units of the budget.
    """

    depth: int
    layers: tuple[int, ...]
    inside: tuple[tuple[float, Weights], ...]
    mean: tuple[float, ...] = MEAN_SHAPE
    table: tuple[float, ...] = TABLE_SHAPE

    def weights(self, keep: float | int) -> Weights:
        """Stage II's weights at the nearest share of the paper; for a number of tokens, those of the largest share."""
        share = keep if isinstance(keep, float) else 1.0
        return min(self.inside, key=lambda entry: abs(entry[0] - share))[1]


def _by_share(*weights: Weights) -> tuple[tuple[float, Weights], ...]:
    """For the paper's 77.8, 88.9 and 94.4 % of tokens dropped."""
    return tuple(zip((2 / 9, 1 / 9, 1 / 18), weights, strict=True))


SCHEDULES: dict[str, Schedule] = {
    "llava-1.5-7b": Schedule(32, (12, 24), _by_share((0.5, 0.5), (0.5, 1.0), (0.5, 1.0))),
    "llava-1.5-13b": Schedule(40, (15, 30), _by_share((0.5, 0.4), (0.5, 0.4), (0.5, 0.4))),
    "llava-next-7b": Schedule(32, (12, 24), _by_share((0.5, 0.5), (0.5, 0.4), (0.5, 0.5))),
    "llava-next-13b": Schedule(40, (15, 30), _by_share((0.5, 0.5), (0.5, 0.5), (0.5, 0.5))),
    "qwen2.5-vl-7b": Schedule(28, (12, 16), ((0.198, (0.5, 0.4)), (0.099, (0.5, 0.4))), _QWEN_SHAPE, _QWEN_SHAPE),
    "internvl3-8b": Schedule(28, (12, 16), ((0.2, (0.2, 0.2)), (0.1, (0.3, 0.2))), _QWEN_SHAPE, _QWEN_SHAPE),
}
"""Model name to schedule. LLaVA-Video's layers are not published."""


def default_layers(depth: int) -> tuple[int, ...]:
    """3/8 and 3/4 of the depth, rounded down: 12 and 24 of 32, 15 and 30 of 40; fewer in a model of 1 or 2 layers."""
    return tuple(sorted({max(1, 3 * depth // 8), max(1, 3 * depth // 4)} & set(range(depth))))


def keeps_of(
    keep: float | int,
    layers: Sequence[int],
    depth: int,
    budget: Budget,
    model: Schedule | None,
    inside_only: bool,
) -> list[float] | list[int]:
    """The keep of each cut, Stage I's first unless `inside_only`.

    A fraction's mean over the layers is `keep` to the last digit ("mean"), each cut then rounds by itself. Numbers are
    rounded so that their mean comes as near as the last stretch of layers allows; none is below 1.

    Raises:
        PlanError: see `tops`.
    """
    if budget not in ("mean", "table"):
        raise PlanError(f'budget is {budget!r}; it must be "mean" or "table"')
    number = isinstance(keep, int)
    span = spans(layers, depth)
    named = (
        (model.mean if budget == "mean" else model.table)
        if model
        else {"mean": MEAN_SHAPE, "table": TABLE_SHAPE}[budget]
    )
    shape = (list(named) + [named[-1] / 2**i for i in range(1, len(span))])[: len(span)]
    most = float("inf") if number else 1.0
    if inside_only:
        return _inside(keep, shape, span, budget)
    if budget == "table":
        keeps = [min(most, keep * x) for x in shape]
    elif number:
        scale = keep / mean(shape, span)
        keeps = [scale * x for x in shape]
    else:
        keeps = solve_shape(keep, shape, span)
    return whole(keeps, span) if number else keeps


def _inside(keep: float | int, shape: Sequence[float], span: Sequence[int], budget: Budget) -> list[float]:
    if isinstance(keep, int):
        raise PlanError(
            f"stages=2 with keep={keep}: how many tokens the first layers hold depends on the image; give a fraction"
        )
    if budget == "table":
        return [min(1.0, keep * x) for x in shape[1:]]
    check_floor(keep, span)
    rest = (keep * sum(span) - span[0]) / sum(span[1:])
    return solve_shape(rest, shape[1:], span[1:])
