"""At most n answers to one prompt: the first, the likeliest, or those least alike."""

from __future__ import annotations

from collections.abc import Sequence

from potstill.data.curate.words import jaccard, shingles, words_of

WORDS_OF_A_SHINGLE = 3


def likeliest(perplexities: Sequence[float], n: int) -> list[int]:
    """Places of the n least perplexing answers, in their order; the earlier one at a tie."""
    return sorted(sorted(range(len(perplexities)), key=lambda place: perplexities[place])[:n])


def least_alike(texts: Sequence[str], n: int) -> list[int]:
    """Places of the first text, and then of the one whose nearest chosen neighbour is farthest (Gonzalez 1985), n in
    all, in their order; the earlier one at a tie."""
    sets = [shingles(words_of(text), WORDS_OF_A_SHINGLE) for text in texts]
    chosen = [0] if texts and n else []
    while len(chosen) < min(n, len(texts)):
        left = [place for place in range(len(texts)) if place not in chosen]
        chosen.append(min(left, key=lambda place: max(jaccard(sets[place], sets[other]) for other in chosen)))
    return sorted(chosen)
