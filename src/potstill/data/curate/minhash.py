"""MinHash: a short signature whose agreement estimates the Jaccard index of two sets (Broder 1997), and bands of it
that find alike signatures without comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt32, UInt64

from potstill.data.curate.words import hash_64, shingles

# A pair at the threshold itself is to become a candidate this often.
RECALL_AT_THRESHOLD = 0.9


def multipliers(permutations: int, seed: int = 1) -> tuple[UInt64[np.ndarray, " P"], UInt64[np.ndarray, " P"]]:
    """Odd factors and offsets of multiply-shift hashing (Dietzfelbinger et al. 1997), from the raw stream of PCG64,
    which NumPy keeps for ever."""
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(2 * permutations)
    return raw[:permutations] | np.uint64(1), raw[permutations:]


def signature(
    words: list[str], n: int, factors_P: UInt64[np.ndarray, " P"], offsets_P: UInt64[np.ndarray, " P"]
) -> UInt32[np.ndarray, " P"]:
    """The least hash of any shingle under each of P hash functions."""
    hashes_S = np.fromiter(map(hash_64, shingles(words, n)), dtype=np.uint64)
    if not len(hashes_S):
        return np.zeros(len(factors_P), dtype=np.uint32)
    # Sixty-four bits wrap round on purpose; the upper half is what mixes.
    mixed_SP = (hashes_S[:, None] * factors_P + offsets_P) >> np.uint64(32)
    return mixed_SP.min(0).astype(np.uint32)


def estimate(one_P: UInt32[np.ndarray, " P"], other_P: UInt32[np.ndarray, " P"]) -> float:
    """The share of hash functions that agree: the Jaccard index, within sqrt(J (1 - J) / P)."""
    return float((one_P == other_P).mean())


def candidate_probability(jaccard: float, bands: int, rows: int) -> float:
    """1 - (1 - J^r)^b: how likely two sets agree in one band at least (Leskovec et al. 2020, section 3.4.2)."""
    return 1 - (1 - jaccard**rows) ** bands


def banding(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows of a band): the longest rows, which let the fewest unlike pairs through, at which a pair at the
    threshold is still a candidate with RECALL_AT_THRESHOLD."""
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if candidate_probability(threshold, bands, rows) >= RECALL_AT_THRESHOLD:
            return bands, rows
    return permutations, 1


class NearIndex:
    """Signatures seen so far. Holds some 4 bytes a permutation and 100 a band for each."""

    def __init__(self, threshold: float, n: int, permutations: int):
        self._threshold, self._n = threshold, n
        self._hashes = multipliers(permutations)
        self._bands, self._rows = banding(threshold, permutations)
        self._signatures: list[UInt32[np.ndarray, " P"]] = []
        self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(self._bands)]

    def seen(self, words: list[str]) -> int | None:
        """The number of an earlier text that is as alike as the threshold; None when there is none, and then this one
        is kept under the next number."""
        own = signature(words, self._n, *self._hashes)
        keys = [own[band * self._rows : (band + 1) * self._rows].tobytes() for band in range(self._bands)]
        near: Iterable[int] = sorted({one for found, key in zip(self._buckets, keys, strict=True)
                                      for one in found.get(key, ())})  # fmt: skip
        for one in near:
            if estimate(self._signatures[one], own) >= self._threshold:
                return one
        for bucket, key in zip(self._buckets, keys, strict=True):
            bucket.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(own)
        return None
