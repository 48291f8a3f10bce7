"""Counts what PyTorch is asked to do: operations that would be launched on a GPU, and those that make it wait."""

# ruff: noqa: SIM905
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = frozenset(
    """view _unsafe_view reshape expand unsqueeze squeeze transpose permute t slice select split split_with_sizes unbind
    chunk detach alias as_strided unfold narrow diagonal view_as lift_fresh empty new_empty empty_strided empty_like
    new_empty_strided unsafe_split _reshape_alias real""".split()
)
"""They change how a tensor is looked at, and launch nothing."""
WAITS = frozenset(
    "_local_scalar_dense item nonzero is_nonzero equal masked_select unique_dim _unique2 unique_consecutive".split()
)
"""They give the host a number, or a tensor whose size the host has to know."""


class Counts(TorchDispatchMode):
    """Use as a context; afterwards `launches`, `syncs` and, by name, `names`. Tensors on the meta device count not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.syncs = 0

    @property
    def launches(self) -> int:
        return sum(n for name, n in self.names.items() if name not in VIEWS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        self.names[name.removesuffix("_") or name] += 1
        self.syncs += name in WAITS
        if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple):
            self.syncs += any(i is not None and i.dtype is torch.bool for i in args[1])
        return func(*args, **(kwargs or {}))
