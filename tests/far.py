"""A device that is elsewhere, for tests without one: its tensors are on a device of their own, their numbers are here.

Work that is launched there is counted, and so is whatever makes the host wait for it: reading a number, an operation
whose result's size only the numbers tell, a copy that is not `non_blocking`, either way. Mixing devices fails as it
does on a GPU. What happens on the host is free.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyPrivateUse1Hook, _setup_privateuseone_for_python_backend

from counting import VIEWS, WAITS


class Hook(_DummyPrivateUse1Hook):
    def is_available(self) -> bool:
        """No accelerator, for whoever looks for one."""
        return False


FAR = torch.device("privateuseone:0")
_setup_privateuseone_for_python_backend(hook=Hook())
torch.privateuseone.get_amp_supported_dtype = lambda: [torch.bfloat16]
torch.privateuseone.is_available = lambda: False


class Far(Tensor):
    """A tensor on the device that is elsewhere."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        out = Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            layout=near.layout, device=FAR, requires_grad=near.requires_grad,
        )  # fmt: skip
        out.near = near
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, None)

    def __repr__(self, **_: Any) -> str:
        return f"Far({self.near!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert a far tensor to numpy; use Tensor.cpu() to copy it to host memory first")


def run(func: Any, args: Any, kwargs: Any, counts: "Elsewhere | None") -> Any:
    """One operation, there if any tensor of it is there."""
    name = func._schema.name.split("::")[1]
    flat, spec = pytree.tree_flatten((args, kwargs))
    far = any(isinstance(x, Far) for x in flat)
    to = kwargs.get("device")
    there = far if to is None else torch.device(to).type == FAR.type
    if far and name not in ("_to_copy", "copy_", "index", "index_put_", "index_put", "_index_put_impl_"):
        for x in flat:
            if isinstance(x, Tensor) and not isinstance(x, Far) and x.ndim:
                raise RuntimeError(f"aten::{name}: tensors on {FAR} and on {x.device}")
    if counts is not None:
        counts.note(name, func, args, kwargs, far, there)
    flat = [x.near if isinstance(x, Far) else torch.device("cpu") if isinstance(x, torch.device) else x for x in flat]
    near_args, near_kwargs = pytree.tree_unflatten(flat, spec)
    out = func(*near_args, **near_kwargs)
    if name == "copy_":
        return args[0]
    if not there or name in ("_local_scalar_dense", "equal", "is_nonzero"):
        return out
    returns = func._schema.returns
    if returns and returns[0].alias_info is not None and returns[0].alias_info.is_write:
        return kwargs.get("out", args[0] if args else None)
    return pytree.tree_map(lambda x: Far(x) if isinstance(x, Tensor) and not isinstance(x, Far) else x, out)


class Elsewhere(TorchDispatchMode):
    """Use as a context: what is done there counts. Afterwards `launches`, `uploads`, `waits` and, by name, `names`."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        return sum(n for name, n in self.names.items() if name not in VIEWS)

    @property
    def syncs(self) -> int:
        return sum(self.waits.values())

    def note(self, name: str, func: Any, args: Any, kwargs: Any, far: bool, there: bool) -> None:
        if not far and not there:
            return
        self.names[name.removesuffix("_") or name] += 1
        if name in WAITS:
            self.waits[name] += 1
        if name == "_to_copy" and not (far and there) and not kwargs.get("non_blocking"):
            self.waits["to host" if far else "to device"] += 1
        blocks = name == "copy_" and not (args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        if blocks and not all(isinstance(x, Far) for x in args[:2]):
            self.waits["copy"] += 1
        if name.startswith(("index", "_index")) and len(args) > 1 and isinstance(args[1], list | tuple):
            for i in args[1]:
                if i is not None and i.dtype is torch.bool:
                    self.waits["mask"] += 1
                elif i is not None and not isinstance(i, Far):
                    self.waits["index from host"] += 1
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.waits[name] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {}, self)

    def __enter__(self) -> "Elsewhere":
        self.maker = Maker(self)
        self.maker.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.maker.__exit__(*error)


class Maker(TorchFunctionMode):
    """What no dispatch mode is told: numbers that are made on the host and then copied; attention as one kernel."""

    def __init__(self, counts: Elsewhere) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == FAR.type:
            numbers = pytree.tree_map(lambda x: x.item() if isinstance(x, Far) else x, args)
            return torch.tensor(*numbers, **kwargs | {"device": "cpu"}).to(FAR)
        if func is Tensor.new_tensor and isinstance(args[0], Far):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(FAR)
        if func is scaled_dot_product_attention and isinstance(args[0], Far):
            self.counts.names["attention"] += 1
            near = [x.near if isinstance(x, Far) else x for x in args]
            return Far(func(*near, **{k: x.near if isinstance(x, Far) else x for k, x in kwargs.items()}))
        if func is Tensor.pin_memory:
            return args[0]
        return func(*args, **kwargs)


def send(module: nn.Module) -> nn.Module:
    """The same module with its numbers elsewhere, in place."""
    for m in module.modules():
        for name, p in m._parameters.items():
            if p is not None:
                m._parameters[name] = nn.Parameter(Far(p.detach()), requires_grad=False)
        for name, x in m._buffers.items():
            if x is not None:
                m._buffers[name] = Far(x)
    return module
