"""What others put around a model: compiled, adapted and distributed wrappers, and code that was compiled before.

Hooks go on the model itself, under everything; what calls it through a wrapper then meets them too.
"""

import functools
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from foveate.errors import ModelError

_INSIDE = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module", "BaseTuner": "model"}
"""Wrapper -> where it holds the model: torch.compile's, torch's, and the adapters' of PEFT."""
_REFUSED = {
    "DataParallel": "copies the model, without what is attached to it, in every call; use DistributedDataParallel",
    "FullyShardedDataParallel": "takes the layers' weights apart; attach before wrapping is not supported either: use "
    "DistributedDataParallel",
    "DeepSpeedEngine": "takes the layers' weights apart; use DistributedDataParallel",
}


def unwrapped(model: Any) -> Any:
    """The model under its wrappers.

    Raises:
        ModelError: a wrapper that cannot be looked through, or no model at all.
    """
    while True:
        kinds = [k.__name__ for k in type(model).__mro__]
        if refused := next((k for k in kinds if k in _REFUSED), None):
            raise ModelError(f"{refused} {_REFUSED[refused]}")
        if "PeftModel" in kinds:
            if any(c.is_prompt_learning for c in model.peft_config.values()):
                raise ModelError(
                    f"{type(model).__name__} puts learned tokens before the prompt, where nobody else expects them; "
                    "adapters that change weights (LoRA and its kin) can be pruned"
                )
            model = model.get_base_model()
        elif inside := next((_INSIDE[k] for k in kinds if k in _INSIDE), None):
            model = getattr(model, inside)
        elif not isinstance(model, nn.Module):
            way = "; pass its .model" if isinstance(getattr(model, "model", None), nn.Module) else ""
            raise ModelError(f"attach takes a model, not a {type(model).__name__}{way}")
        else:
            return model


def renew_compiled() -> None:
    """Forget compiled code: it was made with the hooks that a model had then, and looks for no others.

    Whatever was compiled in this process is compiled once more when it runs next; nothing happens where nothing was.
    """
    if compiled():
        torch.compiler.reset()


def compiled() -> bool:
    """Whether anything was compiled in this process, as far as can be told."""
    convert = sys.modules.get("torch._dynamo.convert_frame")
    return convert is not None and bool(getattr(convert.input_codes, "seen", True))


def unseen(hook: Any, inside: bool = False) -> Any:
    """A hook that compilers call and never look into: it decides anew in every call.

    `inside`: what it calls may be compiled all the same.
    """
    apart = torch.compiler.disable(hook, recursive=not inside)

    @functools.wraps(hook)
    def either(*args: Any, **kwargs: Any) -> Any:
        # Stepping aside costs more than most of what is done for a decoded token.
        return (apart if torch.compiler.is_dynamo_compiling() or compiled() else hook)(*args, **kwargs)

    return either


def as_written(hooked: bool) -> AbstractContextManager[Any]:
    """Modules run uncompiled inside, where hooks were put on them for one call."""
    return torch.compiler.set_stance("force_eager") if hooked else nullcontext()
