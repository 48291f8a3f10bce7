"""Between the host, where prompts are looked at, and the device: one read, few copies, and nobody waits for a copy."""

from typing import Any

import torch
from torch import Tensor


def read(*tensors: Tensor | None) -> list[Any]:
    """Copies in host memory; those of one device come in one copy, which waits for it."""
    out: list[Any] = list(tensors)
    far: dict[torch.device, list[int]] = {}
    for i, x in enumerate(tensors):
        if x is not None and x.device.type != "cpu":
            far.setdefault(x.device, []).append(i)
    for numbers in far.values():
        each = [x for i in numbers if (x := tensors[i]) is not None]
        kind = torch.float64 if any(x.is_floating_point() for x in each) else torch.long
        flat = each[0].flatten() if len(each) == 1 else torch.cat([x.flatten().to(kind) for x in each])
        parts = flat.cpu().split([x.numel() for x in each])
        for i, x, part in zip(numbers, each, parts, strict=True):
            out[i] = part.view(x.shape).to(x.dtype)
    return out


def upload(x: Tensor, device: Any) -> Tensor:
    """A tensor of the host on a device, without waiting for what runs there."""
    if x.device == device or x.device.type != "cpu":
        return x.to(device)
    return (x.pin_memory() if torch.device(device).type == "cuda" else x).to(device, non_blocking=True)


def rows_of(x: Tensor, row: int, places: Tensor) -> Tensor:
    """Places of a row of [B, M, ...], which the host knows, ascending: a view where they follow each other."""
    n = len(places)
    if not n:
        return x[row, :0]
    first = int(places[0])
    if int(places[-1]) - first == n - 1:
        return x[row, first : first + n]
    return x[row].index_select(0, upload(places, x.device))
