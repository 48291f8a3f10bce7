"""Suppression of one image, from its similarity matrix."""

import numpy as np
from numba import njit

from foveate.ops.cosine import ONE

UNIT = 1.0 / ONE
WAYS = {None: 0, "square": 1, "linear": 2}


@njit(cache=True, nogil=True)
def walk(similar_NN, score_N, radius_K, way, start_S, order_K):
    """Fill in the picks, -1 after the last; an empty radius takes nobody away."""
    n = len(score_N)
    open_N = np.ones(n, np.bool_)
    order_K[:] = -1
    for step in range(len(order_K)):
        pick, top = -1, -np.inf
        for i in range(n):
            if open_N[i] and (pick < 0 or score_N[i] > top):
                pick, top = i, score_N[i]
        if step < len(start_S) and start_S[step] >= 0:
            pick = start_S[step]
        if pick < 0:
            return
        order_K[step], open_N[pick] = pick, False
        for i in range(n):
            near = similar_NN[pick, i] * UNIT
            if way == 1:
                score_N[i] *= 1.0 - near * near
            elif way == 2:
                score_N[i] *= 1.0 - max(near, 0.0)
            if len(radius_K) and 1.0 - near < radius_K[step]:
                open_N[i] = False
