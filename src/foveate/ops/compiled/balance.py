"""Relevance, diversity and coverage of one image balanced step by step, from its similarity matrix."""

import numpy as np
from numba import njit

from foveate.ops.compiled.rising import begin, rise
from foveate.ops.cosine import ONE

UNIT = 1.0 / ONE
LEAST = 1e-300


@njit(cache=True, nogil=True)
def walk(similar_NN, relevance_N, weight_3, by_mean, start_S, order_K):
    """Fill in the picks of `ops.balance.balance`; weights are those of relevance, diversity, coverage."""
    n = len(relevance_N)
    beta, alpha, lam = weight_3
    best_N = similar_NN[start_S[0]].copy()
    gain_N, open_N = np.zeros(n, np.int64), np.ones(n, np.bool_)
    if lam > 0:
        begin(similar_NN, best_N, gain_N)
    pick = start_S[0]
    for step in range(len(order_K)):
        if step < len(start_S) and start_S[step] >= 0:
            pick = start_S[step]
        if step:
            row_N = similar_NN[pick]
            if lam > 0:
                rise(similar_NN, best_N, row_N, gain_N)
            else:
                for j in range(n):
                    best_N[j] = max(best_N[j], row_N[j])
        order_K[step] = pick
        open_N[pick] = False
        if by_mean:
            pick = _by_mean(relevance_N, best_N, gain_N, open_N, beta, alpha, lam)
        else:
            pick = _by_range(relevance_N, best_N, gain_N, open_N, beta, alpha, lam)


@njit(cache=True, nogil=True)
def _by_mean(relevance_N, best_N, gain_N, open_N, beta, alpha, lam):
    relevant, far, covers = 0.0, np.int64(0), np.int64(0)
    for i in range(len(best_N)):
        if open_N[i]:
            relevant += abs(relevance_N[i])
            far += ONE - best_N[i]
            covers += abs(gain_N[i])
    beta /= max(relevant, LEAST)
    alpha /= max(far * UNIT, LEAST)
    lam /= max(covers * UNIT, LEAST)
    top, pick = -np.inf, 0
    for i in range(len(best_N)):
        score = relevance_N[i] * beta + (1.0 - best_N[i] * UNIT) * alpha + gain_N[i] * UNIT * lam
        if open_N[i] and score > top:
            top, pick = score, i
    return pick


@njit(cache=True, nogil=True)
def _by_range(relevance_N, best_N, gain_N, open_N, beta, alpha, lam):
    low_3, high_3 = np.full(3, np.inf), np.full(3, -np.inf)
    for i in range(len(best_N)):
        if open_N[i]:
            for c, value in enumerate((relevance_N[i], 1.0 - best_N[i] * UNIT, gain_N[i] * UNIT)):
                low_3[c], high_3[c] = min(low_3[c], value), max(high_3[c], value)
    span_3 = np.maximum(high_3 - low_3, LEAST)
    top, pick = -np.inf, 0
    for i in range(len(best_N)):
        score = (relevance_N[i] - low_3[0]) / span_3[0] * beta
        score += (1.0 - best_N[i] * UNIT - low_3[1]) / span_3[1] * alpha
        score += (gain_N[i] * UNIT - low_3[2]) / span_3[2] * lam
        if open_N[i] and score > top:
            top, pick = score, i
    return pick
