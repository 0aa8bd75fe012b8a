"""pass@k: would one of k answers have been right?"""

from __future__ import annotations

from fractions import Fraction
from math import comb


def pass_at_k(samples: int, right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), without bias for k <= n (Chen et al. 2021, arXiv:2107.03374, equation 1).

    Raises ValueError when k is not within 1 and `samples`, or `right` not within 0 and `samples`.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(
            f"pass@k needs 1 <= k <= samples and 0 <= right <= samples, got {k=}, {samples=}, {right=}: ask for more "
            "samples, or a smaller k"
        )
    return float(1 - Fraction(comb(samples - right, k), comb(samples, k)))
