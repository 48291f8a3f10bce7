"""Farthest points of one image, from its similarity matrix."""

import numpy as np
from numba import njit

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
