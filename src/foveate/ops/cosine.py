"""Cosine similarities of tokens, in whole steps of 2^-30, so that sums of them are exact in any order."""

import warnings
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from foveate.errors import SignalError
from foveate.ops.doubts import insist_finite

ONE = 1 << 30
"""The similarity 1 in whole steps. Steps are coarser than float32 only below 2^-6, where the product is no better."""

GRAM_LIMIT = 8192
"""Above this many tokens the N x N matrix (256 MiB an image at the limit) is only built for who reads all of it."""

CHUNK = 1 << 20
"""Similarities worked on at a time, where all of them are needed once. A few MiB: they stay in the cache."""

_BLOCK = 256
"""Rows of the matrix made at a time; what a block has in common with later ones is computed once."""


def check_finite(x: Tensor, what: str = "features") -> None:
    """Refuse what cannot be compared, or computed with.

    Raises:
        SignalError: a value is NaN or infinite.
    """
    insist_finite(x, partial(no_distance, what))


def no_distance(what: str = "features") -> SignalError:
    """What features, or scores, that are not finite are answered with."""
    why = "nothing is near or far" if what == "features" else "no weight follows from them"
    return SignalError(f"{what} hold NaN or infinity, so {why}; check the activations for overflow")


def unit(x_BND: Tensor) -> Tensor:
    """Each row at length 1, in float32; a row of zeros stays zero.

    Raises:
        SignalError: a value is NaN or infinite.
    """
    check_finite(x_BND)
    return torch.nn.functional.normalize(x_BND.float(), dim=-1, eps=1e-12)


def steps(product: Tensor) -> Tensor:
    """Products of unit rows, rounded in place to whole steps, still in float32 and in [-ONE, ONE]."""
    return product.mul_(ONE).round_().clamp_(-ONE, ONE)


def product(a: Tensor, b: Tensor) -> Tensor:
    """A matrix product in float32. Under autocast it would be bfloat16, and picks would follow the rounding."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def whole(unit_ND: Tensor) -> Tensor:
    """The matrix [N, N] of one image in steps, int32, symmetric to the bit, ONE on the diagonal."""
    n = len(unit_ND)
    out_NN = torch.empty(n, n, dtype=torch.int32, device=unit_ND.device)
    for start in range(0, n, _BLOCK):
        stop = start + _BLOCK
        out_NN[start:stop, start:] = steps(product(unit_ND[start:stop], unit_ND[start:].mT))
        out_NN[stop:, start:stop] = out_NN[start:stop, stop:].mT
        # A product by its own transpose is symmetric only up to rounding.
        square_RR = out_NN[start:stop, start:stop].triu()
        out_NN[start:stop, start:stop] = square_RR + square_RR.triu(1).mT
    return out_NN.fill_diagonal_(ONE)


def fits(images: int, n: int, device: torch.device) -> bool:
    """Whether N x N matrices take at most a quarter of the memory that is free; up to the limit of tokens they do."""
    if n <= GRAM_LIMIT:
        return True
    if device.type == "cuda":
        return 16 * images * n * n <= torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return False
    return 16 * images * n * n <= free


def matrix_pays(n: int, k: int, d: int) -> bool:
    """Whether all similarities are sooner there than the rows of k picks, one after another, on a processor."""
    # In operations: half of the matrix is computed; a pick by itself costs some 100 us beside its products.
    return n <= GRAM_LIMIT and n * n * d < 2 * n * k * d + 7_000_000 * k


def all_pairs(x_BND: Tensor, images: int) -> bool:
    """Whether a kernel that reads all similarities gets matrices, for so many images at a time; if not, says it."""
    n = x_BND.shape[1]
    if fits(images, n, x_BND.device):
        return True
    warnings.warn(
        f"coverage of {n} tokens: their similarities ({images * n * n / 2**28:.1f} GiB) are more than a quarter of "
        "the free memory, so they are computed again whenever needed, some 10 times the work; free some, or drop "
        "tokens by a cheaper method first",
        stacklevel=3,
    )
    return False


class Cosine:
    """Rows of the similarity matrix of B images of N tokens.

    Float32 in [-1, 1], whole multiples of 2^-30, 1 on the diagonal. A token of zeros has similarity 0 to all others.

    Args:
        x_BND: features in any floating type.
        matrix: whether the matrices are made once; by default up to `GRAM_LIMIT` tokens.
    """

    def __init__(self, x_BND: Tensor, matrix: bool | None = None) -> None:
        self.unit_BND = unit(x_BND)
        self.shape = x_BND.shape[:2]
        self._image_B1 = torch.arange(x_BND.shape[0], device=x_BND.device)[:, None]
        self._gram_MN: Tensor | None = None
        if x_BND.shape[1] <= GRAM_LIMIT if matrix is None else matrix:
            if x_BND.device.type == "cpu":
                gram_BNN = torch.stack([whole(unit_ND) for unit_ND in self.unit_BND]).float().div_(ONE)
            else:
                gram_BNN = self.every()
            self._gram_MN = gram_BNN.flatten(0, 1)

    def every(self) -> Tensor:
        """All similarities [B, N, N]. Not to be written to: where they were made, it is these."""
        if self._gram_MN is not None:
            return self._gram_MN.unflatten(0, self.shape)
        every_BN = torch.arange(self.shape[1], device=self.unit_BND.device).expand(self.shape)
        return self._rows(self.unit_BND, every_BN)

    def rows(self, index_BM: Tensor) -> Tensor:
        """Similarities [B, M, N] of M tokens of each image to all N. A new tensor."""
        if self._gram_MN is not None:
            flat_BM = index_BM + self._image_B1 * self.shape[1]
            # One row after another: several times faster than indexing by two tensors.
            return self._gram_MN.index_select(0, flat_BM.flatten()).unflatten(0, index_BM.shape)
        return self._rows(self.unit_BND[self._image_B1, index_BM], index_BM)

    def ragged(self, image_R: Tensor, index_R: Tensor) -> Tensor:
        """Similarities [R, N] of any tokens of any images, image by image in order. A new tensor."""
        if self._gram_MN is not None:
            return self._gram_MN.index_select(0, image_R * self.shape[1] + index_R)
        alone = index_R.split(torch.bincount(image_R, minlength=self.shape[0]).tolist())
        parts = [
            self._rows(unit_ND[None, at], at[None], unit_ND[None])
            for unit_ND, at in zip(self.unit_BND, alone, strict=True)
        ]
        return torch.cat(parts, 1)[0]

    def chunks(self) -> list[Tensor]:
        """Indices [B, M] that go through all tokens in order, a few rows at a time."""
        b, n = self.shape
        every_BN = torch.arange(n, device=self.unit_BND.device).expand(b, n)
        return list(every_BN.split(max(1, CHUNK // (b * n)), dim=1))

    def _rows(self, some_BMD: Tensor, index_BM: Tensor, unit_BND: Tensor | None = None) -> Tensor:
        out_BMN = product(some_BMD, (self.unit_BND if unit_BND is None else unit_BND).mT)
        return steps(out_BMN).div_(ONE).scatter_(2, index_BM[:, :, None], 1.0)
