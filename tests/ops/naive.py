"""Selections written out as the papers do, one image and one step at a time. Slow, and for tests alone."""

import numpy as np


def balance(similarity, relevance, k, alpha, lam, normalise, beta=1):
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


def coverage(similarity, k, weight, value, bonus, start=(), floor=0.0):
    """Facility location, every gain recomputed. similarity [N, R]: what each token covers of each thing."""
    picked, best = [], np.full(similarity.shape[1], floor)
    while len(picked) < k:
        gains = bonus + value * (np.maximum(0, similarity - best) * weight).sum(1)
        gains[picked] = -np.inf
        picked.append(start[len(picked)] if len(picked) < len(start) else int(np.argmax(gains)))
        best = np.maximum(best, similarity[picked[-1]])
    return picked


def weighted_farthest(similarity, k, weight, start, cap=2.0):
    picked = list(start)
    while len(picked) < k:
        value = weight * np.minimum(cap, 1 - similarity[picked].max(0))
        value[picked] = -np.inf
        picked.append(int(np.argmax(value)))
    return picked


def residual(x, k, weight, start=()):
    """Explicit Gram-Schmidt: every residual row is kept, and loses its part along each pick."""
    rest, picked = x.copy(), []
    least = 1e-12 * (x**2).sum(1)
    while len(picked) < k:
        energy = (rest**2).sum(1)
        value = np.where(energy > least, weight * energy, -np.inf)
        value[picked] = -np.inf
        pick = start[len(picked)] if len(picked) < len(start) else int(np.argmax(value))
        if len(picked) >= len(start) and value[pick] == -np.inf:
            return picked
        picked.append(pick)
        if energy[pick] > least[pick]:
            axis = rest[pick] / np.sqrt(energy[pick])
            rest -= np.outer(rest @ axis, axis)
            rest -= np.outer(rest @ axis, axis)
    return picked


def suppress(similarity, score, k, radius, soften):
    score, picked, out = score.copy(), [], np.zeros(len(score), bool)
    while len(picked) < k and not out.all():
        pick = int(np.argmax(np.where(out, -np.inf, score)))
        factor = {"square": 1 - similarity[pick] ** 2, "linear": 1 - np.maximum(0, similarity[pick]), None: 1}[soften]
        score = score * factor
        if radius is not None:
            out |= 1 - similarity[pick] < radius[len(picked)]
        out[pick] = True
        picked.append(pick)
    return picked


def peaks(similarity, score, reverse=False):
    out = []
    for i, s in enumerate(score):
        above = [j for j, t in enumerate(score) if ((t, -j) < (s, -i) if reverse else (t, -j) > (s, -i)) and j != i]
        out.append(s * (1 - max([0.0, *(similarity[i, j] for j in above)])))
    return out
