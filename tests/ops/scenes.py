"""Features and weights that the tests of the greedy kernels share."""

import torch

from foveate.ops.cosine import ONE, unit, whole

KINDS = ["normal", "clusters", "copies", "heavy"]


def features(seed, b, n, d, kind="normal"):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(b, n, d, generator=g)
    if kind == "clusters":
        x = 0.3 * x + torch.randn(b, 4, d, generator=g)[:, torch.arange(n) % 4]
    if kind == "copies":
        x = x[:, torch.arange(n) // 2]
    if kind == "heavy":
        x[:, 0] *= 100
    return x


def weights(seed, b, n):
    return torch.rand(b, n, generator=torch.Generator().manual_seed(seed + 1)) ** 4


def similarities(x_BND):
    """[B, N, N] in float64, the very numbers that picks are made by."""
    return torch.stack([whole(unit_ND) for unit_ND in unit(x_BND)]).double().div(ONE).numpy()


def starts(seed, b, n, most):
    """[B, S], different tokens, of ragged length."""
    g = torch.Generator().manual_seed(seed + 2)
    out = torch.stack([torch.randperm(n, generator=g)[:most] for _ in range(b)])
    for row in out:
        row[int(torch.randint(1, most + 1, (1,), generator=g)) :] = -1
    return out


def plain(row):
    """A row of a start as a list."""
    return [i for i in row.tolist() if i >= 0]
