"""Residual selection of one image: a token's length is brought up to date only while it may be the longest."""

import numpy as np
from numba import njit

from foveate.ops.compiled.bounds import BLOCK, first, put


@njit(cache=True, nogil=True)
def walk(x_ND, left_N, weight_N, least_N, start_S, axis_KD, order_K):
    """Fill in the picks, -1 after the rank's end; left: squared lengths; axis: scratch."""
    n = len(left_N)
    bound_N, seen_N = np.full(n, np.inf), np.zeros(n, np.int64)
    top_M = np.full((n + BLOCK - 1) // BLOCK, np.inf)
    for i in range(n):
        put(bound_N, top_M, i, weight_N[i] * left_N[i] if left_N[i] > least_N[i] else -np.inf)
    order_K[:] = -1
    for step in range(len(order_K)):
        if step < len(start_S) and start_S[step] >= 0:
            pick = start_S[step]
        else:
            pick = first(bound_N, top_M)
            while seen_N[pick] != step and bound_N[pick] > -np.inf:
                for s in range(seen_N[pick], step):
                    part = _dot(x_ND[pick], axis_KD[s])
                    left_N[pick] -= part * part
                seen_N[pick] = step
                bound = weight_N[pick] * left_N[pick] if left_N[pick] > least_N[pick] else -np.inf
                put(bound_N, top_M, pick, bound)
                pick = first(bound_N, top_M)
            if bound_N[pick] == -np.inf:
                return
        order_K[step] = pick
        put(bound_N, top_M, pick, -np.inf)
        axis_D = axis_KD[step]
        axis_D[:] = x_ND[pick]
        # Twice is enough: what the first time leaves by rounding, the second takes away.
        for _ in range(2):
            for s in range(step):
                part = _dot(axis_D, axis_KD[s])
                for d in range(len(axis_D)):
                    axis_D[d] -= part * axis_KD[s, d]
        square = _dot(axis_D, axis_D)
        axis_D[:] = axis_D / np.sqrt(square) if square > least_N[pick] else axis_D * 0.0


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _dot(a_D, b_D):
    total = 0.0
    for d in range(len(a_D)):
        total += a_D[d] * b_D[d]
    return total
