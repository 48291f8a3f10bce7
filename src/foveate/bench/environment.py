"""What a figure depends on beside the code that printed it: versions, hardware, commit, and which model it was."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from foveate.engines.loading import Engine, fingerprint

_PACKAGES = ("foveate", "torch", "transformers", "numpy", "scipy", "pillow", "accelerate", "lmms-eval")


def describe(engine: Engine, name: str) -> dict[str, Any]:
    """Versions, hardware, commit and model, as plain data."""
    model = engine.model
    kernel = getattr(model.config.get_text_config(), "_attn_implementation", None)
    return {
        "model": {
            "name": name,
            "type": engine.facts.model_type,
            "layers": engine.facts.depth,
            "fingerprint": fingerprint(Path(engine.facts.source)),
            "parameters": sum(p.numel() for p in model.parameters()),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attention": kernel,
        },
        "versions": versions(),
        "hardware": hardware(model.device),
        "commit": commit(),
    }


def versions() -> dict[str, str]:
    """Python and the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    # An imported package counts, whether pip knows it or not.
    from foveate import __version__

    return found | {"foveate": __version__, "torch": torch.__version__}


def hardware(device: torch.device) -> dict[str, Any]:
    """The device that answers, and the machine around it."""
    out: dict[str, Any] = {
        "device": str(device),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        out |= {"gpu": facts.name, "gpu_bytes": facts.total_memory, "cuda": torch.version.cuda}
    return out


def commit() -> str | None:
    """The commit of the code that ran, with a mark where files differ from it; None outside of a repository."""
    here = Path(__file__).parent
    try:
        words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        found = subprocess.run(words, cwd=here, capture_output=True, text=True, timeout=10, check=False)
        root = subprocess.run(
            ["git", "ls-files", "--error-unmatch", __file__], cwd=here, capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # Installed into somebody else's repository, its commit says nothing about Foveate.
    return found.stdout.strip() or None if found.returncode == 0 and root.returncode == 0 else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
