"""Varied rows drawn from what was proposed for each word: a pure function of the seed and of the row's content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from potstill.core.example import Example
from potstill.data.augment.settings import AugmentSettings
from potstill.data.augment.words import Word, words_of, written_like

# The parts of a row that are text, where a row has them.
PARTS = ("prompt", "response", "pair")
Proposals = Mapping[str, Sequence[Sequence[str]]]


@dataclass(slots=True)
class Tally:
    """rows: varied ones that were kept. words: that could have been replaced, over all drawn copies; replaced: of them.
    repeated: copies that were like the original or like another copy, and left out."""

    rows: int = 0
    words: int = 0
    replaced: int = 0
    repeated: int = 0


def parts_of(example: Example) -> dict[str, str]:
    """The texts of a row by the part they are."""
    return {name: text for name in PARTS if (text := getattr(example, name))}


def varied(
    example: Example, proposals: Proposals, settings: AugmentSettings, *, seed: int, tally: Tally
) -> list[dict[str, str]]:
    """The texts of the copies of one row, by part; the row itself stays as it is and is not among them.

    proposals: by part, for each of its words (`words_of`) what may stand in its place; a word with none is kept. Each
    copy replaces each of the others with probability p_replace by one of its proposals, all equally likely (Jiao et al.
    2020, algorithm 1).
    """
    texts = parts_of(example)
    words = {name: words_of(text) for name, text in texts.items()}
    chances = _chances(seed, example.id)
    seen, found = {tuple(texts.values())}, list[dict[str, str]]()
    for _ in range(settings.copies):
        made = {
            name: _replaced(text, words[name], proposals[name], settings.p_replace, chances, tally)
            for name, text in texts.items()
        }
        if tuple(made.values()) in seen:
            tally.repeated += 1
            continue
        seen.add(tuple(made.values()))
        found.append(made)
    tally.rows += len(found)
    return found


def variation(example: Example, texts: Mapping[str, str], settings: AugmentSettings, *, maker: str) -> Example:
    """A row with other texts: one synthetic generation further, and with the original's label only where the recipe
    trusts it."""
    lineage = replace(example.lineage, maker=maker, generation=example.lineage.generation + 1)
    label = example.label if settings.labels == "keep" else None
    return replace(example, **texts, lineage=lineage, label=label)


def _replaced(
    text: str,
    words: Sequence[Word],
    proposals: Sequence[Sequence[str]],
    p: float,
    chances: Iterator[float],
    tally: Tally,
) -> str:
    parts, end = [], 0
    for word, found in zip(words, proposals, strict=True):
        if not found:
            continue
        tally.words += 1
        drawn, which = next(chances), next(chances)
        if drawn >= p:
            continue
        tally.replaced += 1
        parts += [text[end : word.start], written_like(found[int(which * len(found))], word.text)]
        end = word.end
    return "".join([*parts, text[end:]])


def _chances(seed: int, row: str) -> Iterator[float]:
    """Numbers in [0, 1) from raw PCG64 words, whose stream NumPy keeps for ever."""
    stream = np.random.PCG64(np.random.SeedSequence([seed, int(row, 16)]))
    while True:
        yield from (stream.random_raw(64) >> np.uint64(11)) * 2.0**-53
