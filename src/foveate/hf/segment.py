"""The set of tokens that a run of layers sees, and what it takes to index by it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Segment:
    """Tokens that a run of layers sees: places in this pass's input, [B, M], -1 for filler; None for all of them."""

    index_BM: Tensor | None
    new: bool = False
    """A cut of this pass made it, so it must go into the cache."""
    filled: bool | None = None
    """Whether there is filler; None where nobody has looked."""
    tables: dict[Any, Any] = field(default_factory=dict)

    def slots(self, b: int, length: int, device: Any) -> Tensor:
        """Where each place of the input is in this segment: [B, L]; 0 where it is not."""
        place = torch.arange(length, device=device).expand(b, -1)
        index = self.index_BM
        if index is None:
            return place
        slot = torch.arange(index.shape[1], device=index.device).expand_as(index)
        # Filler goes to an extra last column that is cut off again.
        where = torch.where(index < 0, length, index)
        return torch.zeros(b, length + 1, dtype=torch.long, device=index.device).scatter_(1, where, slot)[:, :-1]

    def scatter(self, x: Tensor, length: int, dim: int = 1) -> Tensor:
        """Bring the segment's rows back to the places of the whole input, zeros elsewhere. `dim` 0 is the batch."""
        index = self.index_BM
        # Gemma 4 sends the last positions alone through its last layers: nothing there is to be brought back.
        if index is None or x.shape[dim] != index.shape[1]:
            return x
        index = index.to(x.device)
        shape = list(x.shape)
        shape[dim] = length + 1
        view = [1] * x.ndim
        view[0], view[dim] = index.shape
        where = torch.where(index < 0, length, index).view(view).expand_as(x)
        return x.new_zeros(shape).scatter(dim, where, x).narrow(dim, 0, length)


def gather(x: Tensor, index_BM: Tensor, dim: int = 1) -> Tensor:
    """Pick places along `dim`; filler repeats place 0 and is masked. Batch is the dimension before `dim`."""
    index = index_BM.clamp(min=0).to(x.device)
    if x.shape[dim - 1] == 1 and index.shape[0] > 1:
        x = x.expand(*x.shape[: dim - 1], index.shape[0], *x.shape[dim:])
    shape = [1] * x.ndim
    shape[dim - 1], shape[dim] = index.shape
    return x.gather(dim, index.view(shape).expand(*x.shape[:dim], index.shape[1], *x.shape[dim + 1 :]))


def along(x: Tensor, index_BM: Tensor, b: int, length: int) -> Tensor:
    """Pick places of whatever has them: along the first dimension of that length, behind one of the batch's or of 1."""
    for d in range(1, x.ndim):
        if x.shape[d] == length and x.shape[d - 1] in (b, 1):
            return gather(x, index_BM, d)
    return x
