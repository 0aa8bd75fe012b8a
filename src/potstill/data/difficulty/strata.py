"""Which rows a pass keeps: most from the hard end, some from the rest, so that what is easy is not forgotten."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

# Marks this draw among those of a seed and a pass: the order of batches takes the plain pair.
DRAW = 1


def drawn(
    difficulty_N: Float[np.ndarray, " N"], kept: int, tau: float, key: tuple[int, int]
) -> Int[np.ndarray, " kept"]:
    """Positions of `kept` rows, ascending. Stratified data updating of DA-KD (He et al. 2025, ICML 2025).

    The `kept` hardest rows are the hard part, all others the easy one; a share `tau` of the draw is taken uniformly
    from the easy part, the rest from the hard one, without replacement. Where the easy part has too few rows it gives
    them all and the hard part the rest (ours: the paper does not say). Equal scores rank in row order. key: seed and
    pass, of which the draw is a pure function.
    """
    ranked = np.argsort(-difficulty_N, kind="stable")
    hard, easy = ranked[:kept], ranked[kept:]
    from_easy = min(round(tau * kept), len(easy))
    shuffles = [np.random.PCG64(one) for one in np.random.SeedSequence((*key, DRAW)).spawn(2)]
    parts = [
        part[np.argsort(generator.random_raw(len(part)), kind="stable")][:number] if number else part[:0]
        for part, generator, number in zip((hard, easy), shuffles, (kept - from_easy, from_easy), strict=True)
    ]
    return np.sort(np.concatenate(parts))
