"""Arithmetic in the precision it is written in. Under autocast a product of float32 is rounded to half, and picks
would follow the rounding."""

from contextlib import AbstractContextManager

import torch


def precise(device: torch.device) -> AbstractContextManager[None]:
    """Autocast is off inside, on this kind of device."""
    return torch.autocast(device.type, enabled=False)
