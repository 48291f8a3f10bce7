"""What survives a kill: weights and optimizer in one safetensors file, the curve in its header, replaced whole."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from foveate import files
from foveate.errors import FoveateError

# Whole tensors under their own names, whoever holds the pieces: one process, several, or a sharded model.
_OPTIONS = StateDictOptions(
    full_state_dict=True,
    cpu_offload=True,
    ignore_frozen_params=True,
    flatten_optimizer_state_dict=True,
    broadcast_from_rank0=False,
)
_FROZEN = "model."


def gather(trainee: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain numbers of what is learned. Every process must call it."""
    weights: Any
    learned: Any
    weights, learned = get_state_dict(trainee, optimizer, options=_OPTIONS)
    weights = {f"weights.{n}": t for n, t in weights.items() if not n.startswith(_FROZEN)}
    tensors = {n: t for n, t in learned.items() if isinstance(t, Tensor)}
    numbers = {n: v for n, v in learned.items() if not isinstance(v, Tensor)}
    return {n: t.detach().contiguous() for n, t in (weights | tensors).items()}, numbers


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Tensors and what belongs to them in one file, so that they can never disagree."""
    files.write(path, save(tensors, metadata={"facts": json.dumps(facts)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        FoveateError: the file is no training state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {})["facts"])
    except Exception as e:  # safetensors, JSON and the file system each have their own
        raise FoveateError(f"{path} is no training state ({e}); delete it to start anew") from None


def restore(trainee: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: Any) -> None:
    """Put weights and optimizer back where they were. Every process must call it."""
    weights: Any = {n.removeprefix("weights."): t for n, t in tensors.items() if n.startswith("weights.")}
    learned = {n: t for n, t in tensors.items() if not n.startswith("weights.")} | numbers
    options = StateDictOptions(
        full_state_dict=True, ignore_frozen_params=True, flatten_optimizer_state_dict=True, strict=False
    )
    set_state_dict(trainee, optimizer, model_state_dict=weights, optim_state_dict=learned, options=options)
