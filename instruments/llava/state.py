"""What survives a kill: tensors as safetensors, numbers as JSON, each written beside its place and then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.errors import FoveateError


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` in one step: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Like `write_bytes`, for anything JSON can hold."""
    write_bytes(path, json.dumps(value, indent=1).encode())


def save_state(path: Path, tensors: dict[str, Tensor], **facts: Any) -> None:
    """Tensors and the facts that belong to them in one file, so that they can never disagree."""
    data = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write_bytes(path, save(data, metadata={"facts": json.dumps(facts)}))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and facts of `save_state`.

    Raises:
        FoveateError: if the file is not one that `save_state` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
    except Exception as error:
        raise FoveateError(f"{path} is not a training state: {error}; delete it to start that stage anew") from error
    return tensors, facts
