"""A pointer's walk over a batch, in float64 and rounded to float32 where scores are compared, as the steps in torch."""

import numpy as np
from numba import njit

SURE = 1e-3
"""How far past its end a walk goes before it is left: whoever reads the stops may add them up another way."""


@njit(cache=True, nogil=True)
def walk(score_BN, key_BNm, state_BNm, sight_BNd, memory_Bm, lead_B, budget_B, weights, cover, stops, group, hushed,
         never, end, order_BT, stop_BT):  # fmt: skip
    """Fill in picks and the stop's logit before each; returns how many picks were made.

    Args:
        score_BN, key_BNm, state_BNm, sight_BNd: the scene; likeness of width 0 covers nothing.
        memory_Bm: the first states; changed in place.
        lead_B, budget_B: picks before coverage alone decides, and picks that a stop's time is counted in.
        weights: of query [m, m + 1] and the GRU's gates [3 m, m + 1] twice, biases last; gates of no rows: no state.
        cover: the weight of coverage.
        stops: weights of the stop [m], then its constant part, the weight of the best score and that of time; empty
            where nothing stops.
        group: picks a step.
        hushed, never: the weight of worth once coverage decides, and the score of padding.
        end: (stop's bias, 1 / its scale, the sum of logarithms that ends a walk) once all walks of the batch have
            ended; empty: go on. A scale of 0 ends at the first logit above zero.
        order_BT, stop_BT: what is filled in.
    """
    b, n = score_BN.shape
    most, m = order_BT.shape[1], memory_Bm.shape[1]
    query, given, own = weights
    worth_N, covered_BN, open_BN = np.empty(n), np.zeros((b, n)), np.ones((b, n), np.bool_)
    stop_BT[:] = -np.inf
    q_m, sum_m, gates, past = np.empty(m), np.empty(m), np.empty(6 * m), np.zeros(b)
    for start in range(0, most, group):
        size = min(group, most - start)
        for i in range(b):
            for r in range(m):
                q_m[r] = (_dot(query[r, :m], memory_Bm[i]) + query[r, m]) / np.sqrt(m)
            for j in range(n):
                value = score_BN[i, j] + _dot(key_BNm[i, j], q_m)
                worth_N[j] = value if start < lead_B[i] or score_BN[i, j] <= never else hushed * value
            sum_m[:] = 0.0
            for place in range(start, start + size):
                top, pick = np.float32(-np.inf), -1
                for j in range(n):
                    value = np.float32(worth_N[j] - cover * covered_BN[i, j])
                    if open_BN[i, j] and (pick < 0 or value > top):
                        top, pick = value, j
                if place == start and start and len(stops):
                    logit = _dot(q_m, stops[:m]) + stops[m] - stops[m + 1] * top + stops[m + 2] * (start / budget_B[i])
                    stop_BT[i, place] = logit
                order_BT[i, place], open_BN[i, pick] = pick, False
                if sight_BNd.shape[2]:
                    for j in range(n):
                        near = _dot(sight_BNd[i, j], sight_BNd[i, pick])
                        covered_BN[i, j] = max(covered_BN[i, j], near)
                for r in range(m):
                    sum_m[r] += state_BNm[i, pick, r]
            if len(given):
                _remember(given, own, sum_m / size, memory_Bm[i], gates)
        if len(end) and _over(stop_BT[:, start], end, past):
            return start + size
    return most


@njit(cache=True, nogil=True)
def _remember(given, own, new_m, memory_m, gates):
    m = len(memory_m)
    for r in range(3 * m):
        gates[r] = _dot(given[r, :m], new_m) + given[r, m]
        gates[3 * m + r] = _dot(own[r, :m], memory_m) + own[r, m]
    for r in range(m):
        reset = 1.0 / (1.0 + np.exp(-(gates[r] + gates[3 * m + r])))
        stay = 1.0 / (1.0 + np.exp(-(gates[m + r] + gates[4 * m + r])))
        fresh = np.tanh(gates[2 * m + r] + reset * gates[5 * m + r])
        memory_m[r] = (1.0 - stay) * fresh + stay * memory_m[r]


@njit(cache=True, nogil=True)
def _over(stop_B, end, past):
    """Whether every walk has ended, `past` being what its stops said so far."""
    over = True
    for i in range(len(stop_B)):
        logit = stop_B[i] + end[0]
        if end[1] == 0.0:
            past[i] -= 1.0 if logit > SURE else 0.0
        elif logit > -np.inf:
            x = logit * end[1]
            past[i] -= max(x, 0.0) + np.log1p(np.exp(-abs(x)))
        over = over and past[i] < end[2] - SURE
    return over


# Sums in whatever order is fastest: what is compared is rounded to half the digits.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(a, b):
    total = 0.0
    for d in range(len(a)):
        total += np.float64(a[d]) * np.float64(b[d])
    return total
