"""Rows that hold a text of an evaluation set: n words in a row of it, or the whole of a short one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from potstill.data.curate.words import hash_64, ngrams, words_of


@dataclass(slots=True)
class Examination:
    """The n-grams of evaluation texts. texts: how many were read; too_short: of these, texts of fewer words than
    `shortest`, which are everybody's words and not looked for."""

    n: int
    shortest: int
    texts: int = 0
    too_short: int = 0
    _by_length: dict[int, set[int]] = field(default_factory=dict)

    def add(self, texts: Iterable[str]) -> None:
        """Texts that no row may hold."""
        for text in texts:
            words = words_of(text)
            self.texts += 1
            if len(words) < min(self.n, self.shortest):
                self.too_short += 1
                continue
            length = min(self.n, len(words))
            self._by_length.setdefault(length, set()).update(map(hash_64, ngrams(words, length)))

    def found_in(self, text: str) -> str | None:
        """The first words of an evaluation text that stand in this one, or None."""
        words = words_of(text)
        for length, known in sorted(self._by_length.items(), reverse=True):
            for gram in ngrams(words, length):
                if hash_64(gram) in known:
                    return " ".join(gram)
        return None
