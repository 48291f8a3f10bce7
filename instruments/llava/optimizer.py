"""Muon for the matrices inside transformer layers, AdamW for the rest, on a float32 master copy of bfloat16 weights.

Muon (Keller Jordan, 2024) makes each update orthogonal by Newton-Schulz iteration; its step is scaled so that the
root mean square of an update is that of AdamW. In the study that came before, a ViT of this size learned its shapes
several times sooner with it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BETAS = (0.9, 0.98)
_MOMENTUM = 0.95
_MUON_SHARE = 2.0
_DECAY = 0.05
_EPS = 1e-8


class Optimizer:
    """Steps from the sum of the workers' gradients; its whole state is a flat dict of tensors."""

    def __init__(self, named: dict[str, nn.Parameter], rate: float) -> None:
        self.named = named
        self.rate = rate
        self.steps = 0
        self.master = {n: p.detach().float().clone() for n, p in named.items()}
        self.first = {n: torch.zeros_like(m) for n, m in self.master.items()}
        self.second = {n: torch.zeros_like(m) for n, m in self.master.items() if not _is_muon(n, m)}
        groups: dict[tuple[int, ...], list[str]] = {}
        for name, weight in self.master.items():
            if _is_muon(name, weight):
                groups.setdefault(tuple(weight.shape), []).append(name)
        self._groups = groups

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], factor: float, clip: float = 1.0) -> float:
        """One update at `factor` times the base rate; returns the gradient's norm before clipping to `clip`."""
        self.steps += 1
        norm = torch.stack([g.norm() for g in gradients.values()]).norm()
        shrink = float(torch.clamp(clip / (norm + 1e-6), max=1.0))
        rate = self.rate * factor
        for name in self.second:
            self._adam(name, gradients[name] * shrink, rate)
        for names in self._groups.values():
            self._muon(names, [gradients[n] * shrink for n in names], rate)
        for name, weight in self.named.items():
            weight.copy_(self.master[name])
        return float(norm)

    def _adam(self, name: str, gradient: Tensor, rate: float) -> None:
        weight, first, second = self.master[name], self.first[name], self.second[name]
        first.lerp_(gradient, 1 - _BETAS[0])
        second.lerp_(gradient * gradient, 1 - _BETAS[1])
        size = (second / (1 - _BETAS[1] ** self.steps)).sqrt_().add_(_EPS)
        if weight.ndim >= 2:
            weight.mul_(1 - rate * _DECAY)
        weight.sub_(first / size, alpha=rate / (1 - _BETAS[0] ** self.steps))

    def _muon(self, names: list[str], gradients: list[Tensor], rate: float) -> None:
        blends = []
        for name, gradient in zip(names, gradients, strict=True):
            momentum = self.first[name].mul_(_MOMENTUM).add_(gradient)
            blends.append(gradient + _MOMENTUM * momentum)
        updates = orthogonal(torch.stack(blends))
        length = 0.2 * max(updates.shape[1:]) ** 0.5 * _MUON_SHARE * rate
        for name, update in zip(names, updates, strict=True):
            self.master[name].mul_(1 - rate * _DECAY).sub_(update, alpha=length)

    def state(self) -> dict[str, Tensor]:
        """Everything a later process needs to go on exactly from here."""
        parts = {"master": self.master, "first": self.first, "second": self.second}
        flat = {f"{part}/{n}": t for part, tensors in parts.items() for n, t in tensors.items()}
        return {**flat, "steps": torch.tensor(self.steps)}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state of the same shape; the model's weights follow the master copy."""
        for part, tensors in (("master", self.master), ("first", self.first), ("second", self.second)):
            for name, tensor in tensors.items():
                tensor.copy_(state[f"{part}/{name}"])
        self.steps = int(state["steps"])
        for name, weight in self.named.items():
            weight.copy_(self.master[name])


def orthogonal(stack: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrices with singular values near 1, n x rows x columns, by a quintic Newton-Schulz iteration."""
    tall = stack.shape[1] > stack.shape[2]
    x = (stack.mT if tall else stack).bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(rounds):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    out = x.float()
    return out.mT if tall else out


def _is_muon(name: str, weight: Tensor) -> bool:
    return weight.ndim == 2 and (".layers." in name or ".blocks." in name)
