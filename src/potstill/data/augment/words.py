"""The words of a text that may be replaced."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_WORD = re.compile(r"[^\W\d_]+")
# English words that carry a sentence rather than a meaning; a text that loses one is no variation but a mistake.
_LISTED = """
    a about above after again against all also although am an and any are aren as at be because been before being below
    between both but by can cannot could couldn d did didn do does doesn doing don down during each either else ever
    every few for from further had hadn has hasn have haven having he hence her here hers herself him himself his how
    however i if in into is isn it its itself just ll m may me might mightn more most much must mustn my myself
    neither no nor not now o of off on once one only onto or other our ours ourselves out over own per rather re s same
    shall shan she should shouldn since so some such t than that the their theirs them themselves then there therefore
    these they this those though through thus to too under unless until up upon us ve very was wasn we were weren what
    when where whereas whether which while who whom whose why will with within without won would wouldn yet you your
    yours yourself yourselves
"""
STOP_WORDS = frozenset(_LISTED.split())


@dataclass(frozen=True, slots=True)
class Word:
    """Where a word stands, in characters, and the word as it is written there."""

    start: int
    end: int
    text: str


def words_of(text: str) -> list[Word]:
    """Runs of letters, stop words and single letters left out, in their order."""
    found = (Word(match.start(), match.end(), match.group()) for match in _WORD.finditer(text))
    return [word for word in found if may_vary(word.text)]


def may_vary(word: str) -> bool:
    """Whether a word is neither a stop word nor a single letter."""
    return len(word) > 1 and word.casefold() not in STOP_WORDS


def common_words(texts: Iterable[str], limit: int) -> list[str]:
    """The `limit` most frequent words that may vary, in lower case; those as frequent in alphabetical order."""
    counts = Counter(word.text.lower() for text in texts for word in words_of(text))
    return [word for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]]


def written_like(word: str, like: str) -> str:
    """A word with the capitals of another."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
