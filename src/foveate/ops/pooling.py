"""Average pooling of a rectangle of tokens to a smaller one, as weights and as the tokens that stand for the cells."""

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def pooled_shape(rows: int, columns: int, most: int) -> tuple[int, int]:
    """The grid (r, c) with r <= rows, c <= columns and r * c <= most that is nearest to that size and to the aspect.

    Distance is |log of the change of aspect| + log(most / (r * c)); of equal ones the grid with more cells, then with
    fewer rows.
    """

    def cost(shape: tuple[int, int]) -> tuple[float, int, int]:
        r, c = shape
        aspect = abs(math.log(r * columns / (c * rows)))
        return round(aspect + math.log(most / (r * c)), 9), -r * c, r

    # For a given r, a smaller c than the largest possible one never costs less.
    return min(((r, min(columns, most // r)) for r in range(1, min(rows, most) + 1)), key=cost)


def pool_weights(size: int, cells: int) -> Tensor:
    """Weights [cells, size] that average items into equal cells; an item on a border is shared by its two cells."""
    edge = torch.arange(cells + 1, dtype=torch.float64) * size / cells
    item = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edge[1:, None], item + 1) - torch.maximum(edge[:-1, None], item)
    return (overlap.clamp(min=0) * cells / size).float()


def cell_centres(size: int, cells: int) -> Tensor:
    """The item [cells] that holds each cell's centre; of two at the same distance the later one."""
    return (2 * torch.arange(cells) + 1) * size // (2 * cells)


def shares(sizes: list[int], k: int) -> list[int]:
    """k divided in proportion to the sizes, rounded down so that equal sizes get equal shares.

    Where that leaves some with nothing, they share what rounding left over, one each; if it is less than their
    number, evenly spaced ones among them get it.
    """
    total = sum(sizes)
    out = [k * size // total for size in sizes]
    empty = [i for i, share in enumerate(out) if not share]
    spare = min(k - sum(out), len(empty))
    for j in range(spare):
        out[empty[(2 * j + 1) * len(empty) // (2 * spare)]] = 1
    return out
