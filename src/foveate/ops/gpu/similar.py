"""The similarity matrix on a GPU, and what is summed up over it before the first pick."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops.cosine import ONE, check_finite

_TILE = 64


@triton.jit
def fix(product, inverse, out, N, TILE: tl.constexpr):
    """One tile of products, norms divided out, in whole steps; its mirror image is written too."""
    b, ti, tj = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    if tj >= ti:
        i, j = ti * TILE + tl.arange(0, TILE), tj * TILE + tl.arange(0, TILE)
        real = (i < N)[:, None] & (j < N)[None, :]
        place = b * N * N + i[:, None].to(tl.int64) * N + j[None, :]
        scale_i = tl.load(inverse + b * N + i, mask=i < N, other=0.0)
        scale_j = tl.load(inverse + b * N + j, mask=j < N, other=0.0)
        s = tl.load(product + place, mask=real, other=0.0) * scale_i[:, None] * scale_j[None, :]
        s = tl.minimum(tl.maximum(s, -1.0), 1.0) * 1073741824.0
        # To the nearest, halves to even. From 2^23 steps on they are whole already, and the rest is 0.
        low = tl.floor(s)
        rest, whole = s - low, low.to(tl.int32)
        up = (rest > 0.5) | ((rest == 0.5) & ((whole & 1) == 1))
        whole = tl.where(i[:, None] == j[None, :], 1073741824, whole + up.to(tl.int32))
        if ti == tj:
            whole = tl.where(i[:, None] <= j[None, :], whole, tl.trans(whole))
        tl.store(out + place, whole, mask=real)
        if ti != tj:
            mirror = b * N * N + j[:, None].to(tl.int64) * N + i[None, :]
            tl.store(out + mirror, tl.trans(whole), mask=(j < N)[:, None] & (i < N)[None, :])


@triton.jit
def isolation(similar, near, total, N, BLOCK: tl.constexpr):
    """One token's best similarity to another, and the sum of its similarities."""
    b, i, at = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BLOCK)
    row = tl.load(similar + b * N * N + i.to(tl.int64) * N + at, mask=at < N, other=0)
    others = tl.where((at < N) & (at != i), row, -2147483647)
    tl.store(near + b * N + i, tl.max(others, 0))
    tl.store(total + b * N + i, tl.sum(row.to(tl.int64), 0))


@triton.jit
def begin(similar, best, gain, N, BLOCK: tl.constexpr):
    """One token's gain: the sum over all columns of what it has above their best."""
    b, i, at = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BLOCK)
    real = at < N
    row = tl.load(similar + b * N * N + i.to(tl.int64) * N + at, mask=real, other=0)
    least = tl.load(best + b * N + at, mask=real, other=0)
    tl.store(gain + b * N + i, tl.sum(tl.maximum(row, least).to(tl.int64) - least.to(tl.int64), 0))


def matrix(x_BND: Tensor) -> Tensor:
    """Similarities [B, N, N] in steps, int32, symmetric to the bit.

    The raw rows are multiplied, in their own precision and with float32 sums, and the norms divided out afterwards:
    unit rows in bfloat16 would be rounded first, and so would TF32's factors, which changes picks. Each row is first
    scaled by a power of two, which rounds nothing and keeps large ones from overflowing.

    Raises:
        SignalError: a value is NaN or infinite.
    """
    b, n, _ = x_BND.shape
    check_finite(x_BND)
    peak_BN1 = x_BND.abs().amax(-1, keepdim=True).float()
    x_BND = torch.ldexp(x_BND.float(), -torch.frexp(peak_BN1).exponent).to(x_BND.dtype)
    product_BNN = _product(x_BND)
    norm_BN = torch.linalg.vector_norm(x_BND, dim=-1, dtype=torch.float32)
    inverse_BN = torch.where(norm_BN > 0, 1 / norm_BN, 0.0)
    out_BNN = torch.empty(b, n, n, dtype=torch.int32, device=x_BND.device)
    tiles = triton.cdiv(n, _TILE)
    fix[(b, tiles, tiles)](product_BNN, inverse_BN, out_BNN, n, TILE=_TILE)
    return out_BNN


def _product(x_BND: Tensor) -> Tensor:
    with torch.autocast(x_BND.device.type, enabled=False):
        if x_BND.dtype in (torch.float16, torch.bfloat16):
            if x_BND.is_cuda:
                return torch.bmm(x_BND, x_BND.mT, out_dtype=torch.float32)
            x_BND = x_BND.float()
        if not x_BND.is_cuda:
            return x_BND.float() @ x_BND.float().mT
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            return x_BND.float() @ x_BND.float().mT
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed


def steps_of(value: float) -> int:
    """A similarity in whole steps."""
    return round(value * ONE)


@lru_cache(maxsize=64)
def numbers(device: torch.device, *values: float) -> Tensor:
    """Constants in float64: as arguments of a kernel they would be float32. Copied to a device once."""
    return torch.tensor(values, dtype=torch.float64, device=device)


def warps(block: int) -> int:
    """Warps of a program whose block is so long: 8 to 32 numbers a thread."""
    return 4 if block <= 1024 else 8 if block <= 4096 else 16
