"""What survives a kill: weights and optimizer in one safetensors file, the curve in its header, replaced whole."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from foveate import files, typed
from foveate.errors import FoveateError
from foveate.reading import read as read_json

_FROZEN = "model."
_FACTS = {"run": dict, "step": int, "seconds": float, "curve": list}


def gather(trainee: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, and what the optimizer remembers of each, whole and on the CPU. Every process must call it."""
    tensors = {}
    for name, tensor in _learned(trainee).items():
        tensors[f"weights/{name}"] = _whole(tensor)
        for kind, value in optimizer.state.get(tensor, {}).items():
            tensors[f"{kind}/{name}"] = _whole(value)
    return tensors


def restore(trainee: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put weights and optimizer back where they were. Every process must call it."""
    for name, tensor in _learned(trainee).items():
        with torch.no_grad():
            tensor.copy_(_like(tensor, tensors[f"weights/{name}"]))
        memory = {k.removesuffix(f"/{name}"): v for k, v in tensors.items() if k.endswith(f"/{name}")}
        memory.pop("weights")
        if memory:
            # A step count is one number, wherever the weights are.
            optimizer.state[tensor] = {k: v.clone() if v.ndim == 0 else _like(tensor, v) for k, v in memory.items()}


def _learned(trainee: nn.Module) -> dict[str, Tensor]:
    """Parameters that learn, and the selector's statistics."""
    named = {**dict(trainee.named_parameters()), **dict(trainee.named_buffers())}
    return {n: t for n, t in named.items() if not n.startswith(_FROZEN)}


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over processes."""
    full = getattr(tensor, "full_tensor", None)
    return (full() if callable(full) else tensor).detach().cpu().contiguous().clone()


def _like(tensor: Tensor, value: Tensor) -> Tensor:
    """`value` spread as `tensor` is."""
    value = value.to(tensor.device)
    if not hasattr(tensor, "device_mesh"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, tensor.device_mesh, tensor.placements)  # type: ignore[attr-defined]


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
            facts = read_json((file.metadata() or {})["facts"])
        typed.check({k: facts[k] for k in _FACTS} | facts["run"], {**_FACTS, "recipe": dict})
        return tensors, facts
    except Exception as e:  # safetensors, JSON and the file system each have their own
        raise FoveateError(f"{path} is no training state ({e}); delete it to start anew") from None
