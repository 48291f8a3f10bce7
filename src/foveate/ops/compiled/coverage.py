"""Greedy coverage of one image: by gains that are kept up to date, or by old gains as bounds where weights round."""

import numpy as np
from numba import njit

from foveate.ops.compiled.bounds import BLOCK, first, put
from foveate.ops.compiled.rising import begin, rise
from foveate.ops.cosine import ONE

UNIT = 1.0 / ONE


@njit(cache=True, nogil=True)
def walk(similar_NN, best_N, value_N, bonus_N, start_S, order_K):
    """Fill in the picks of `ops.coverage.coverage` without weights on what is covered; other weights may be empty."""
    n = len(best_N)
    gain_N, open_N = np.empty(n, np.int64), np.ones(n, np.bool_)
    begin(similar_NN, best_N, gain_N)
    for step in range(len(order_K)):
        if step < len(start_S) and start_S[step] >= 0:
            pick = start_S[step]
        else:
            top, pick = -np.inf, 0
            for i in range(n):
                score = gain_N[i] * UNIT
                if len(value_N):
                    score *= value_N[i]
                if len(bonus_N):
                    score += bonus_N[i]
                if open_N[i] and score > top:
                    top, pick = score, i
        order_K[step], open_N[pick] = pick, False
        if step + 1 < len(order_K):
            rise(similar_NN, best_N, similar_NN[pick], gain_N)


@njit(cache=True, nogil=True)
def lazy(rows_NR, best_R, weight_R, value_N, bonus_N, unit, start_S, order_K):
    """The same for any rows [N, R], in units, and weights of what is covered: bounds are renewed while they matter."""
    n = rows_NR.shape[0]
    bound_N, seen_N = np.full(n, np.inf), np.full(n, -1, np.int64)
    top_M = np.full((n + BLOCK - 1) // BLOCK, np.inf)
    for step in range(len(order_K)):
        if step < len(start_S) and start_S[step] >= 0:
            pick = start_S[step]
        else:
            pick = first(bound_N, top_M)
            while seen_N[pick] != step:
                gain = _gain(rows_NR[pick], best_R, weight_R) * unit
                if len(value_N):
                    gain *= value_N[pick]
                if len(bonus_N):
                    gain += bonus_N[pick]
                seen_N[pick] = step
                put(bound_N, top_M, pick, gain)
                pick = first(bound_N, top_M)
        order_K[step] = pick
        put(bound_N, top_M, pick, -np.inf)
        row_R = rows_NR[pick]
        for r in range(len(row_R)):
            best_R[r] = max(best_R[r], row_R[r])


# No value is NaN. Summed in one order, whichever it is, so that no gain rises by rounding and old ones stay bounds.
@njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz"})
def _gain(row_R, best_R, weight_R):
    total = 0.0
    if len(weight_R):
        for r in range(len(row_R)):
            total += weight_R[r] * max(np.float64(row_R[r]) - np.float64(best_R[r]), 0.0)
    else:
        for r in range(len(row_R)):
            total += max(np.float64(row_R[r]) - np.float64(best_R[r]), 0.0)
    return total
