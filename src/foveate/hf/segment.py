"""The set of tokens that a run of layers sees, and what it takes to index by it."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from foveate.hf.cache import Kept


@dataclass
class Segment:
    """Tokens that a run of layers sees: places in this pass's input, [B, M], -1 for filler; None for all of them."""

    index_BM: Tensor | None
    new: bool = False
    """A cut of this pass made it, so it must go into the cache."""
    masks: dict[int, Any] = field(default_factory=dict)
    tables: dict[Any, Any] = field(default_factory=dict)


class Lengths:
    """What `create_causal_mask` asks a cache, for one layer."""

    is_compileable = False

    def __init__(self, past: int, kept: Kept | None) -> None:
        self.past, self.dropped = past, kept.dropped if kept else 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Where the first query stands."""
        return self.past

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Logical length."""
        return self.past

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Entries with the query, and where the first of them stands."""
        return self.past - self.dropped + query_length, self.dropped


def gather(x: Tensor, index_BM: Tensor, dim: int = 1) -> Tensor:
    """Pick places along `dim`; filler repeats place 0 and is masked. Batch is the dimension before `dim`."""
    index = index_BM.clamp(min=0).to(x.device)
    if x.shape[dim - 1] == 1 and index.shape[0] > 1:
        x = x.expand(*x.shape[: dim - 1], index.shape[0], *x.shape[dim:])
    shape = [1] * x.ndim
    shape[dim - 1], shape[dim] = index.shape
    return x.gather(dim, index.view(shape).expand(*x.shape[:dim], index.shape[1], *x.shape[dim + 1 :]))
