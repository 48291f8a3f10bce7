"""The similarity matrix on a GPU, and what is summed up over it before the first pick."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveate.ops.cosine import ONE, no_distance
from foveate.ops.doubts import insist

_TILE = 64
# Before it, half precision is made float32 first: the same numbers, more slowly.
_HAS_WIDE_BMM = tuple(int(x) for x in torch.__version__.split(".")[:2]) >= (2, 8)


@triton.jit
def prepare(x, scaled, inverse, bad, D, TILE: tl.constexpr):
    """One row: scaled by a power of two so that its peak lies in [1, 2), and one over its length then."""
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, TILE)
    peak = tl.full([], 0.0, tl.float32)
    wrong = tl.full([], 0, tl.int32)
    for d in range(0, D, TILE):
        part = tl.abs(tl.load(x + row * D + d + at, mask=d + at < D, other=0.0).to(tl.float32))
        # A maximum may pass over NaN.
        wrong = tl.maximum(wrong, tl.max(((part != part) | (part == float("inf"))).to(tl.int32), 0))
        peak = tl.maximum(peak, tl.max(part, 0))
    exponent = (peak.to(tl.int32, bitcast=True) >> 23) & 255
    scale = (tl.maximum(254 - exponent, 1) << 23).to(tl.float32, bitcast=True)
    square = tl.full([], 0.0, tl.float32)
    for d in range(0, D, TILE):
        part = tl.load(x + row * D + d + at, mask=d + at < D, other=0.0).to(tl.float32) * scale
        square += tl.sum(part * part, 0)
        tl.store(scaled + row * D + d + at, part.to(scaled.dtype.element_ty), mask=d + at < D)
    tl.store(inverse + row, tl.where(square > 0, 1.0 / tl.sqrt_rn(tl.where(square > 0, square, 1.0)), 0.0))
    if wrong > 0:
        tl.atomic_max(bad, 1)


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
    b, n, d = x_BND.shape
    x_BND = x_BND.contiguous()
    scaled_BND, bad = torch.empty_like(x_BND), torch.zeros(1, dtype=torch.int32, device=x_BND.device)
    inverse_BN = torch.empty(b, n, dtype=torch.float32, device=x_BND.device)
    prepare[(b * n,)](x_BND, scaled_BND, inverse_BN, bad, d, TILE=min(1024, triton.next_power_of_2(d)), num_warps=4)
    product_BNN = _product(scaled_BND)
    out_BNN = torch.empty(b, n, n, dtype=torch.int32, device=x_BND.device)
    tiles = triton.cdiv(n, _TILE)
    fix[(b, tiles, tiles)](product_BNN, inverse_BN, out_BNN, n, TILE=_TILE)
    insist(bad.double(), lambda found: no_distance() if found[0] else None)
    return out_BNN


def _product(x_BND: Tensor) -> Tensor:
    with torch.autocast(x_BND.device.type, enabled=False):
        if x_BND.dtype in (torch.float16, torch.bfloat16):
            if x_BND.is_cuda and _HAS_WIDE_BMM:
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
