"""A green-list mark in generated text, and the test that finds it (Kirchenbauer et al. 2023, arXiv:2301.10226).

A key and the `window` tokens before decide which tokens are green. The list is a keyed hash of (window, token), not a
shuffled vocabulary: each pair is green with probability `share`, independently of all others, so that over distinct
pairs of text that knows nothing of the key the count of green ones is binomial, and the p-value exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt64

from potstill.core.errors import InputError

# splitmix64 (Steele, Lea and Flood 2014): two rounds of xor-shift and multiply, every bit depends on every other.
_STEP, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

Pair = tuple[tuple[int, ...], int]
"""The tokens before, and the token."""


@dataclass(frozen=True, slots=True)
class Mark:
    """key: a secret; who knows it can find and remove the mark. window: tokens before that choose the list. share: of
    the vocabulary that is green (gamma). boost: nats added to green logits (delta).

    Defaults of Sander et al. 2024 (arXiv:2402.14904) for text that others may learn from.
    """

    key: int
    window: int = 2
    share: float = 0.25
    boost: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.key < 2**64:
            raise InputError(
                "the key of a mark is a whole number from 0 to 2^64 - 1: draw one with secrets.randbits(64)"
            )
        if self.window < 1 or not 0 < self.share < 1 or self.boost < 0:
            raise InputError(
                f"a mark needs window >= 1, 0 < share < 1 and boost >= 0, got {self.window}, {self.share}, {self.boost}"
            )


@dataclass(frozen=True, slots=True)
class Count:
    """green of `pairs` scored pairs, z of equation 2 (large-sample), and the exact binomial tail p."""

    green: int
    pairs: int
    z: float
    p: float


def green(mark: Mark, before_NW: Int[np.ndarray, "N W"], tokens_M: Int[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """Which tokens are green, each after its own window (N = M), or all after one (N = 1).

    Raises ValueError for windows of another length than the mark's.
    """
    if before_NW.shape[1] != mark.window:
        raise ValueError(f"a mark of window {mark.window} needs as many tokens before, got {before_NW.shape[1]}")
    state = _mixed(np.array([mark.key], np.uint64))
    for before_N in before_NW.T.astype(np.uint64):
        state = _mixed(state ^ before_N)
    hashed_M = _mixed(state ^ tokens_M.astype(np.uint64))
    return (hashed_M >> np.uint64(11)) < np.uint64(mark.share * 2**53)


def pairs_of(tokens: Sequence[int], window: int, prompt: int = 0) -> Iterable[Pair]:
    """Every (window, token) whose token comes after the first `prompt` tokens and has a full window before it."""
    for place in range(max(window, prompt), len(tokens)):
        yield tuple(tokens[place - window : place]), tokens[place]


def count(mark: Mark, texts: Iterable[Sequence[int]], *, distinct: bool = True) -> Count:
    """The mark's test on texts, as token ids. distinct: each pair counts once; without it a repeated phrase counts as
    often as it stands, the pairs are not independent, and p is falsely small.

    Raises InputError when no text is longer than the window.
    """
    return score(mark, (pair for text in texts for pair in pairs_of(text, mark.window)), distinct=distinct)


def score(mark: Mark, pairs: Iterable[Pair], *, distinct: bool = True) -> Count:
    """The test on pairs. Raises InputError when there is none."""
    taken = list(dict.fromkeys(pairs) if distinct else pairs)
    if not taken:
        raise InputError(f"no text is longer than the mark's window of {mark.window} tokens: nothing can be tested")
    before_NW = np.array([before for before, _ in taken], np.int64)
    found = int(green(mark, before_NW, np.array([token for _, token in taken], np.int64)).sum())
    return Count(
        found, len(taken), z_score(found, len(taken), mark.share), binomial_tail(found, len(taken), mark.share)
    )


def z_score(green: int, pairs: int, share: float) -> float:
    """(g - gamma n) / sqrt(n gamma (1 - gamma)): Kirchenbauer et al. 2023, equation 2."""
    return (green - share * pairs) / math.sqrt(pairs * share * (1 - share))


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """P(X >= successes) for X ~ Binomial(trials, share), summed from logarithms."""
    if successes <= 0:
        return 1.0
    logs = [_log_mass(k, trials, share) for k in range(successes, trials + 1)]
    top = max(logs)
    return min(1.0, math.exp(top) * math.fsum(math.exp(one - top) for one in logs))


def _log_mass(k: int, trials: int, share: float) -> float:
    choose = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
    return choose + k * math.log(share) + (trials - k) * math.log1p(-share)


def _mixed(state_N: UInt64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    state_N = state_N + _STEP
    state_N = (state_N ^ (state_N >> np.uint64(30))) * _FIRST
    state_N = (state_N ^ (state_N >> np.uint64(27))) * _SECOND
    return state_N ^ (state_N >> np.uint64(31))
