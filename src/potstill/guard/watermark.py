"""Evidence in text itself: a green-list watermark (Kirchenbauer et al. 2023) and planted canaries. No proof of guilt.

A keyed hash of the `window` tokens before a token makes a share gamma of all tokens green there. A writer that prefers
green tokens leaves more of them than chance, and so, more faintly, does a student of its text (Sander et al. 2024).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from potstill.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Green:
    """green of total scored tokens. z: standard deviations above chance; p: exact binomial tail."""

    green: int
    total: int
    z: float
    p: float


def green_test(green: int, total: int, gamma: float) -> Green:
    """z = (g - gamma n) / sqrt(n gamma (1 - gamma)) and P(X >= g), X ~ Binomial(n, gamma).

    Raises:
        InputError: no token, more green ones than tokens, or gamma outside of (0, 1).
    """
    if not (0 <= green <= total and total > 0 and 0 < gamma < 1):
        raise InputError(
            "a green-list test needs 0 <= green <= total, total > 0 and 0 < gamma < 1; "
            f"got {green} of {total} at {gamma}"
        )
    z = (green - gamma * total) / math.sqrt(total * gamma * (1 - gamma))
    tail = math.fsum(math.exp(_log_mass(k, total, gamma)) for k in range(green, total + 1))
    return Green(green, total, z, min(1.0, tail))


def _log_mass(k: int, n: int, gamma: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return ways + k * math.log(gamma) + (n - k) * math.log1p(-gamma)


def is_green(before: Sequence[int], token: int, key: bytes, gamma: float) -> bool:
    """Whether a token is green after these tokens."""
    text = ",".join(map(str, (*before, token))).encode()
    drawn = int.from_bytes(hashlib.blake2b(text, key=key, digest_size=8).digest(), "big")
    return drawn < gamma * 2**64


def detect_watermark(
    texts: Sequence[Sequence[int]],
    key: bytes,
    *,
    window: int = 2,
    gamma: float = 0.25,
    prompts: Sequence[Sequence[int]] = (),
) -> Green:
    """Over token ids. Each (window, token) is scored once, and none that stands in the prompts: a phrase that repeats
    is one draw of the hash, and counting it often makes honest text look marked.

    Raises:
        InputError: nothing is left to score, or the key is empty or longer than 64 bytes.
    """
    if not 0 < len(key) <= 64:
        raise InputError(f"the key of a watermark has 1 to 64 bytes, this one has {len(key)}")
    seen = {piece for prompt in prompts for piece in _pieces(prompt, window)}
    scored = {piece for text in texts for piece in _pieces(text, window)} - seen
    green = sum(is_green(piece[:-1], piece[-1], key, gamma) for piece in scored)
    return green_test(green, len(scored), gamma)


def _pieces(tokens: Sequence[int], window: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[start : start + window + 1]) for start in range(len(tokens) - window)]


def canary_p(planted: float, controls: Sequence[float]) -> float:
    """Exact rank p-value of one canary: how likely the suspect's log-likelihood of the planted text would rank so high
    among controls drawn from the same generator and never published: (1 + #controls >= planted) / (1 + #controls).

    Raises:
        InputError: no controls.
    """
    if not controls:
        raise InputError("a canary is judged against controls that were never published; hand in at least one")
    return (1 + sum(control >= planted for control in controls)) / (1 + len(controls))
