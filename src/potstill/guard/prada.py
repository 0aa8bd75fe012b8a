"""PRADA (Juuti et al. 2019, arXiv:1805.02628), the known baseline: honest queries lie at distances that look normal.

It is here to be compared with, not to be relied on: on text it is close to a coin toss (`docs/results/guard.md`). The
paper keeps a set per predicted class; the guard of a language model sees no class, so there is one.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from jaxtyping import Float

LEAST = 100
"""Distances that are needed before anything is said."""


def distances(vectors_ND: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " M"]:
    """Algorithm 1: distance of each query to the nearest one kept before it. A query is kept when that distance is
    above the threshold, which is the largest `mean - standard deviation` of the kept ones' distances so far."""
    kept, far, found, threshold = [vectors_ND[0]], [], [], 0.0
    for vector in vectors_ND[1:]:
        distance = float(np.sqrt(((np.stack(kept) - vector) ** 2).sum(1).min()))
        found.append(distance)
        if distance > threshold:
            kept.append(vector)
            far.append(distance)
            threshold = max(threshold, float(np.mean(far) - np.std(far)))
    return np.array(found)


def normality(distances_N: Float[np.ndarray, " N"]) -> float:
    """Shapiro and Wilk's W of the distances within three standard deviations of their mean; an attack is below the
    limit. 1 for too few, or where all are the same: nothing speaks against such an account."""
    if len(distances_N) <= LEAST or not (spread := float(distances_N.std())):
        return 1.0
    inside = distances_N[np.abs(distances_N - distances_N.mean()) <= 3 * spread]
    return shapiro_wilk(inside)


def shapiro_wilk(values_N: Float[np.ndarray, " N"]) -> float:
    """W by Royston's approximation of the weights (1995, Applied Statistics algorithm R94), for 12 values and more."""
    n = len(values_N)
    quantile = NormalDist().inv_cdf
    m_N = np.array([quantile((i - 0.375) / (n + 0.25)) for i in range(1, n + 1)])
    square, u = float(m_N @ m_N), n**-0.5
    last = np.polyval([-2.706056, 4.434685, -2.071190, -0.147981, 0.221157, m_N[-1] / square**0.5], u)
    next_to = np.polyval([-3.582633, 5.682633, -1.752461, -0.293762, 0.042981, m_N[-2] / square**0.5], u)
    scale = (square - 2 * m_N[-1] ** 2 - 2 * m_N[-2] ** 2) / (1 - 2 * last**2 - 2 * next_to**2)
    weights_N = m_N / scale**0.5
    weights_N[[0, 1, -2, -1]] = -last, -next_to, next_to, last
    sorted_N = np.sort(values_N)
    return float((weights_N @ sorted_N) ** 2 / ((sorted_N - sorted_N.mean()) ** 2).sum())
