"""Cosine similarities of tokens, row by row, from one Gram matrix where it is small enough."""

import torch
from torch import Tensor

from foveate.errors import SignalError

GRAM_LIMIT = 8192
"""Above this many tokens the N x N matrix (256 MiB an image at the limit) is never built."""

CHUNK = 1 << 20
"""Similarities worked on at a time, where all of them are needed once. A few MiB: they stay in the cache."""

# Multiples of 2^-30 are coarser than float32 only below 2^-6, where the product itself is no better than 2^-24. In
# exchange float64 adds them without rounding (4 million terms fit), so sums do not depend on their order.
_STEPS = 2.0**30


def check_finite(x_BND: Tensor) -> None:
    """Refuse what cannot be compared.

    Raises:
        SignalError: a value is NaN or infinite.
    """
    if not torch.isfinite(x_BND).all():
        raise SignalError(
            "features hold NaN or infinity, so nothing is near or far; check the activations for overflow"
        )


def unit(x_BND: Tensor) -> Tensor:
    """Each row at length 1, in float32; a row of zeros stays zero.

    Raises:
        SignalError: a value is NaN or infinite.
    """
    check_finite(x_BND)
    return torch.nn.functional.normalize(x_BND.float(), dim=-1, eps=1e-12)


class Cosine:
    """Rows of the similarity matrix of B images of N tokens.

    Float32 in [-1, 1], whole multiples of 2^-30, 1 on the diagonal. A token of zeros has similarity 0 to all others.

    Args:
        x_BND: features in any floating type.
    """

    def __init__(self, x_BND: Tensor) -> None:
        self.unit_BND = unit(x_BND)
        self.shape = x_BND.shape[:2]
        self._image_B1 = torch.arange(x_BND.shape[0], device=x_BND.device)[:, None]
        self._gram_MN: Tensor | None = None
        if x_BND.shape[1] <= GRAM_LIMIT:
            every_BN = torch.arange(x_BND.shape[1], device=x_BND.device).expand(self.shape)
            self._gram_MN = self._product(self.unit_BND, every_BN).flatten(0, 1)

    def rows(self, index_BM: Tensor) -> Tensor:
        """Similarities [B, M, N] of M tokens of each image to all N. A new tensor."""
        if self._gram_MN is not None:
            flat_BM = index_BM + self._image_B1 * self.shape[1]
            # One row after another: several times faster than indexing by two tensors.
            return self._gram_MN.index_select(0, flat_BM.flatten()).unflatten(0, index_BM.shape)
        return self._product(self.unit_BND[self._image_B1, index_BM], index_BM)

    def ragged(self, image_R: Tensor, index_R: Tensor) -> Tensor:
        """Similarities [R, N] of any tokens of any images, image by image in order. A new tensor."""
        if self._gram_MN is not None:
            return self._gram_MN.index_select(0, image_R * self.shape[1] + index_R)
        alone = index_R.split(torch.bincount(image_R, minlength=self.shape[0]).tolist())
        parts = [
            self._product(unit_ND[None, at], at[None], unit_ND[None])
            for unit_ND, at in zip(self.unit_BND, alone, strict=True)
        ]
        return torch.cat(parts, 1)[0]

    def chunks(self) -> list[Tensor]:
        """Indices [B, M] that go through all tokens in order, a few rows at a time."""
        b, n = self.shape
        every_BN = torch.arange(n, device=self.unit_BND.device).expand(b, n)
        return list(every_BN.split(max(1, CHUNK // (b * n)), dim=1))

    def _product(self, some_BMD: Tensor, index_BM: Tensor, unit_BND: Tensor | None = None) -> Tensor:
        # Under autocast a product would be rounded to bfloat16, and picks would follow the rounding.
        with torch.autocast(some_BMD.device.type, enabled=False):
            out_BMN = some_BMD @ (self.unit_BND if unit_BND is None else unit_BND).mT
        out_BMN.mul_(_STEPS).round_().div_(_STEPS).clamp_(-1, 1)
        return out_BMN.scatter_(2, index_BM[:, :, None], 1.0)
