"""Words as all comparisons of texts see them: folded case, letters and digits alone; and hashes of them that last."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Words in order, without case, punctuation and compatibility forms."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Every n words in a row; none where there are fewer."""
    return zip(*(words[start:] for start in range(n)), strict=False)


def shingles(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """The set of n-grams of a text; a text of fewer words is one shingle."""
    return set(ngrams(words, n)) or ({tuple(words)} if words else set())


def hash_64(words: Sequence[str]) -> int:
    """The same 64 bits on every machine and in every year."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(words).encode(), digest_size=8).digest(), "little")


def jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """Shared over all; two empty sets are the same."""
    union = len(one | other)
    return len(one & other) / union if union else 1.0
