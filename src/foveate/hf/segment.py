"""The set of tokens that a run of layers sees, and what it takes to index by it."""

from dataclasses import dataclass, field
from functools import cached_property
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
    host_BM: Tensor | None = None
    """The same in host memory, as far as the host can know: of an image, places of its own in the right order, as many
    as are left. Text, lengths and where one image ends are as they are."""
    bias_BM: Tensor | None = None
    """What is added to the attention logits of each token as a key; None: nothing."""
    tables: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def safe_BM(self) -> Tensor:
        """The index without -1, for gathering: filler repeats place 0 and is masked."""
        assert self.index_BM is not None
        return self.index_BM if self.filled is False else self.index_BM.clamp(min=0)

    def slots(self, b: int, length: int) -> Tensor:
        """Where each place of the input is in this segment, in host memory: [B, L]; 0 where it is not."""
        if self.index_BM is None:
            return torch.arange(length).expand(b, -1)
        assert self.host_BM is not None
        return inverse(self.host_BM, length)

    def scatter(self, x: Tensor, length: int, dim: int = 1) -> Tensor:
        """Bring the segment's rows back to the places of the whole input, zeros elsewhere. `dim` 0 is the batch."""
        index = self.index_BM
        # Gemma 4 sends the last positions alone through its last layers: nothing there is to be brought back.
        if index is None or x.shape[dim] != index.shape[1]:
            return x
        index = index.to(x.device)
        shape, view, extra = list(x.shape), [1] * x.ndim, 0
        if self.filled is not False:
            # Filler goes to an extra last place that is cut off again.
            index, extra = torch.where(index < 0, length, index), 1
        shape[dim] = length + extra
        view[0], view[dim] = index.shape
        out = x.new_zeros(shape).scatter_(dim, index.view(view).expand_as(x), x)
        return out.narrow(dim, 0, length) if extra else out


def inverse(index_BM: Tensor, length: int) -> Tensor:
    """Where each of `length` places is in an index: [B, L]; 0 where it is not. -1 is no place."""
    slot = torch.arange(index_BM.shape[1], device=index_BM.device).expand_as(index_BM)
    where = torch.where(index_BM < 0, length, index_BM)
    b = index_BM.shape[0]
    return torch.zeros(b, length + 1, dtype=torch.long, device=index_BM.device).scatter_(1, where, slot)[:, :-1]


def gather(x: Tensor, index_BM: Tensor, dim: int = 1) -> Tensor:
    """Pick places along `dim`, none of them below 0. Batch is the dimension before `dim`."""
    index = index_BM.to(x.device)
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
