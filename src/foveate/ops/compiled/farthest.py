"""Farthest points of one image: from its similarity matrix, or from the few similarities that a walk has to know."""

import numpy as np
from numba import njit

from foveate.ops.compiled.bounds import BLOCK, first, put
from foveate.ops.cosine import ONE

UNIT = 1.0 / ONE
TAKEN = np.int32(2**31 - 1)


@njit(cache=True, nogil=True)
def isolation(similar_NN, near_N, total_N):
    """Fill in each token's best similarity to another, and the sum of its similarities."""
    n = similar_NN.shape[0]
    for i in range(n):
        row = similar_NN[i]
        near, total = np.int32(-2 * ONE), np.int64(0)
        for j in range(i):
            near = max(near, row[j])
        for j in range(i + 1, n):
            near = max(near, row[j])
        for j in range(n):
            total += row[j]
        near_N[i], total_N[i] = near, total


@njit(cache=True, nogil=True)
def walk(similar_NN, weight_N, start_S, first, cap, order_K):
    """Fill in the picks. `cap` is the least similarity that counts; an empty weight is 1 for all."""
    n, weighted = similar_NN.shape[0], len(weight_N) > 0
    near_N = np.full(n, cap, np.int32)
    pick = first
    for step in range(len(order_K)):
        if step < len(start_S) and start_S[step] >= 0:
            pick = start_S[step]
        order_K[step] = pick
        row, least = similar_NN[pick], TAKEN
        near_N[pick] = TAKEN
        # Two passes: the first is a maximum and a minimum of whole vectors, the second stops at the first hit.
        for j in range(n):
            near_N[j] = max(near_N[j], row[j])
            least = min(least, near_N[j])
        if not weighted:
            pick = 0
            while near_N[pick] != least:
                pick += 1
            continue
        best, pick = -np.inf, 0
        for j in range(n):
            value = weight_N[j] * (1.0 - near_N[j] * UNIT)
            if near_N[j] != TAKEN and value > best:
                best, pick = value, j


@njit(cache=True, nogil=True)
def lazy(unit_ND, weight_N, start_S, cap, order_K):
    """As `walk`, without a matrix: a token is compared with the last picks only once it may be the next.

    Distances only fall, so what one was some picks ago bounds what it is.
    """
    n, weighted = len(unit_ND), len(weight_N) > 0
    near_N, bound_N = np.full(n, np.float32(cap)), np.full(n, np.inf)
    seen_N, top_M = np.zeros(n, np.int64), np.full((n + BLOCK - 1) // BLOCK, np.inf)
    for step in range(len(order_K)):
        if step < len(start_S) and start_S[step] >= 0:
            pick = start_S[step]
        else:
            pick = first(bound_N, top_M)
            while seen_N[pick] != step:
                near = near_N[pick]
                for s in range(seen_N[pick], step):
                    part = np.rint(_dot(unit_ND[pick], unit_ND[order_K[s]]) * np.float32(ONE))
                    near = max(near, min(part, np.float32(ONE)))
                near_N[pick], seen_N[pick] = near, step
                put(bound_N, top_M, pick, (weight_N[pick] if weighted else 1.0) * (1.0 - near * UNIT))
                pick = first(bound_N, top_M)
        order_K[step] = pick
        put(bound_N, top_M, pick, -np.inf)
        seen_N[pick] = n


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(a_D, b_D):
    total = np.float32(0)
    for d in range(len(a_D)):
        total += a_D[d] * b_D[d]
    return total
