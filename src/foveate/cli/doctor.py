"""`foveate doctor`: what this installation can do, a line each, and what would bring the rest."""

import importlib.metadata
import importlib.util
import platform
import warnings
from typing import Any

from rich.markup import escape

from foveate.cli import app, show
from foveate.cli.options import Json
from foveate.errors import install

_PACKAGES = ("torch", "transformers", "numpy", "pillow", "accelerate")
EXTRAS = {
    "plot": ("matplotlib", "plots beside the demo and search"),
    "bench": ("scipy", "foveate bench: intervals and tests"),
    "search": ("optuna scipy", "foveate search: plans found on your examples"),
    "train": ("accelerate", "foveate train: learned selectors"),
    "vision": ("torchvision", "processors of some families, Qwen's among them"),
    "fast": ("numba", "compiled loops for greedy methods, on a CPU"),
    "gpu": ("triton", "the same as kernels, on an NVIDIA GPU"),
    "words": ("spacy", "nouns of the question, for methods that read those"),
    "ui": ("gradio", "foveate ui: a page to play on"),
    "vllm": ("vllm", "foveate serve: plans in vLLM"),
}
"""Extra -> the modules to look for, and what it brings."""


@app.command()
def doctor(
    as_json: Json = False,
) -> None:
    """Say what this installation can do: versions, device, which loops run, what is missing and what it would bring."""
    found = examine()
    if as_json:
        show.as_json(found)
        return
    lines = [(name, version or "[bold]missing[/bold]") for name, version in found["versions"].items()]
    lines += [("", ""), ("device", found["device"]), ("greedy loops", found["loops"]), ("", "")]
    for name, extra in found["extras"].items():
        state = "ready  " if extra["ready"] else "[bold]missing[/bold]"
        bring = "" if extra["ready"] else f": [dim]{escape(extra['install'])}[/dim]"
        lines.append((name, f"{state}  {extra['brings']}{bring}"))
    page = show.console()
    for name, said in lines:
        # A line each, however narrow the window: what is copied from here should not be broken.
        page.print(f"{name:<13} {said}".rstrip(), soft_wrap=True, highlight=False)


def examine() -> dict[str, Any]:
    """The same as plain data."""
    import torch

    from foveate import __version__

    cuda = torch.cuda.is_available()
    return {
        "versions": {
            "foveate": __version__,
            "python": platform.python_version(),
            **{p: _version(p) for p in _PACKAGES},
        },
        "device": f"cuda: {torch.cuda.get_device_name()}" if cuda else f"cpu, threads: {torch.get_num_threads()}",
        "loops": _loops(torch.device("cuda" if cuda else "cpu")),
        "extras": {
            name: {"ready": _there(modules), "brings": brings, "install": install(name)}
            for name, (modules, brings) in EXTRAS.items()
        },
    }


def _loops(device: Any) -> str:
    """Which road the methods take that choose one token after another."""
    import torch

    from foveate.ops import roads

    if roads.kernels(torch.empty(1, 1, 1, device=device)):
        return "kernels (Triton)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the line below says it
        compiled = roads.compiled(torch.empty(1, device=device))
    if compiled:
        return "compiled (numba)"
    return "plain PyTorch; " + ("Triton" if device.type == "cuda" else "the extra 'fast'") + " brings faster ones"


def _there(modules: str) -> bool:
    return all(importlib.util.find_spec(m) is not None for m in modules.split())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
