"""Selections written out as the papers do, one image and one step at a time. Slow, and for tests alone."""

import numpy as np


def coverage_greedy(similarity, relevance, k, alpha, lam, normalise, beta=1):
    """TOPS, recomputing everything at every step. similarity [N, N] and relevance [N] in float64."""
    n = len(relevance)
    picked = [int(np.argmax(relevance))]
    best = similarity[picked[0]].copy()
    while len(picked) < k:
        rest = np.array([i for i in range(n) if i not in picked])
        gain = np.maximum(0, similarity[np.ix_(rest, rest)] - best[rest][:, None])
        score = 0
        for weight, value in ((beta, relevance[rest]), (alpha, 1 - best[rest]), (lam, gain.sum(0))):
            score = score + weight * scaled(value, normalise)
        choice = int(rest[np.argmax(score)])
        picked.append(choice)
        best = np.maximum(best, similarity[choice])
    return picked


def scaled(value, normalise):
    if normalise == "mean":
        mean = value.mean()
        return value / mean if mean else value
    low, high = value.min(), value.max()
    return (value - low) / (high - low) if high > low else value - low


def farthest(similarity, first, k):
    """Max-min greedy over a full distance matrix, looking at every picked token at every step."""
    picked = [first]
    while len(picked) < k:
        rest = [i for i in range(len(similarity)) if i not in picked]
        picked.append(max(rest, key=lambda i: min(1 - similarity[s, i] for s in picked)))
    return picked


def knee(values, c, quantile):
    """f of one curve at every head from 1 to n, up to a factor; all 0 where the curve is flat."""
    d = sorted((float(v) for v in values), reverse=True)
    n = len(d)
    top = float(np.quantile(d, quantile))
    top = top if top > d[-1] else d[0]
    scale = top - d[-1] or 1.0
    return [(n - i) * (max(0.0, top - d[i - 1]) / scale) ** c for i in range(1, n + 1)]
