"""The largest of many bounds that change one at a time, by the largest of each block of them."""

import numpy as np
from numba import njit

BLOCK = 64


@njit(cache=True, nogil=True)
def put(bound_N, top_M, i, value):
    """Change one bound, and the largest of its block."""
    bound_N[i] = value
    top, start = -np.inf, i - i % BLOCK
    for j in range(start, min(start + BLOCK, len(bound_N))):
        top = max(top, bound_N[j])
    top_M[i // BLOCK] = top


@njit(cache=True, nogil=True)
def first(bound_N, top_M):
    """The first of the largest bounds."""
    block = 0
    for m in range(1, len(top_M)):
        if top_M[m] > top_M[block]:
            block = m
    i = block * BLOCK
    while bound_N[i] != top_M[block]:
        i += 1
    return i
