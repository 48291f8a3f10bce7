"""The stored arrays of one case, with a batch axis in front, and what the tests ask of an answer."""

from pathlib import Path

import numpy as np
import torch

from foveate.selection import Selection

HERE = Path(__file__).parent
SIZES = ["a1", "a2", "a3", "b1", "b2", "b3", "c1", "c2", "c3"]
PUBLIC = ["a1", "a2", "b1", "b2", "c1", "c2"]
"""Of the second set; its third cases are kept for whoever wants to check independently."""


class Case:
    """The arrays of one case, as tensors with a batch axis in front."""

    def __init__(self, method, name):
        with np.load(HERE / f"{method}.npz") as data:
            self.arrays = {key[len(name) + 1 :]: data[key] for key in data.files if key.startswith(f"{name}_")}
        self.k = int(self.arrays["k"]) if "k" in self.arrays else 0

    def __getitem__(self, name):
        return torch.from_numpy(self.arrays[name])[None]

    def __contains__(self, name):
        return name in self.arrays

    def number(self, name):
        return int(self.arrays[name])

    def value(self, name, default=None):
        return default if name not in self.arrays else self.arrays[name].item()


def kept(selection: Selection, image=0):
    return selection.keep_BN[image].nonzero()[:, 0].tolist()


def cosine(x_BND, y_BTD):
    """[B, T, N]."""
    unit = lambda x: torch.nn.functional.normalize(x, dim=-1)  # noqa: E731
    return unit(y_BTD) @ unit(x_BND).mT


def assert_rows(selection, hidden, order, wanted, tolerance=1e-5):
    """The mixed rows of the tokens in this order are the stored ones, to a share of the largest entry."""
    rows = (selection.mix_BKN @ hidden)[0]
    place = {token: slot for slot, token in enumerate(kept(selection))}
    got = rows[[place[int(i)] for i in order]]
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
