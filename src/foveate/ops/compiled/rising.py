"""How far tokens still cover others, kept up to date as the covered columns rise."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def begin(similar_NN, best_N, gain_N):
    """Fill in the gain of every token: the sum over all columns of what it has above their best."""
    n = similar_NN.shape[0]
    base = np.int64(0)
    for j in range(n):
        base += best_N[j]
    for i in range(n):
        row, reached = similar_NN[i], np.int64(0)
        for j in range(n):
            reached += max(row[j], best_N[j])
        gain_N[i] = reached - base


@njit(cache=True, nogil=True)
def rise(similar_NN, best_N, row_N, gain_N):
    """Raise the columns' best to a new row, and take from the gains what such columns give no more."""
    n = len(row_N)
    risen = np.empty(n, np.int64)
    count = 0
    for j in range(n):
        if row_N[j] > best_N[j]:
            risen[count] = j
            count += 1
    # Four columns a pass: the gains are read and written a quarter as often.
    for at in range(0, count - 3, 4):
        a, b, c, d = risen[at], risen[at + 1], risen[at + 2], risen[at + 3]
        la, lb, lc, ld = best_N[a], best_N[b], best_N[c], best_N[d]
        ha, hb, hc, hd = row_N[a], row_N[b], row_N[c], row_N[d]
        ra, rb, rc, rd = similar_NN[a], similar_NN[b], similar_NN[c], similar_NN[d]
        low = np.int64(la) + lb + lc + ld
        for i in range(n):
            reached = np.int64(min(max(ra[i], la), ha)) + np.int64(min(max(rb[i], lb), hb))
            reached += np.int64(min(max(rc[i], lc), hc)) + np.int64(min(max(rd[i], ld), hd))
            gain_N[i] -= reached - low
    for at in range(count - count % 4, count):
        j = risen[at]
        low, high, row = best_N[j], row_N[j], similar_NN[j]
        for i in range(n):
            gain_N[i] -= np.int64(min(max(row[i], low), high)) - low
    for at in range(count):
        best_N[risen[at]] = row_N[risen[at]]
