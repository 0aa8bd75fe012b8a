"""Words in a tokenizer's pieces: which pieces are whole words, and which pieces a word of a text is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from potstill.core.errors import DataError
from potstill.data.augment.words import Word, words_of

# How tokenizers mark a piece that begins a word (byte-level BPE, SentencePiece), or one that does not (WordPiece).
_BEGINS = ("Ġ", "▁")
_GOES_ON = "##"


@dataclass(frozen=True, slots=True)
class Pieced:
    """A text as the model reads it. places: for each of its words the positions of its pieces, () where it was cut."""

    tokens: list[int]
    words: list[Word]
    places: list[tuple[int, ...]]


def whole_words(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The ids that are a word of letters by themselves, and that word."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    marked = any(piece.startswith(_BEGINS) for piece in vocabulary)
    special = set(tokenizer.all_special_ids)
    found = {}
    for piece, index in vocabulary.items():
        begins = piece.startswith(_BEGINS) if marked else not piece.startswith(_GOES_ON)
        word = piece.lstrip("".join(_BEGINS))
        if begins and index not in special and word.isalpha():
            found[index] = word
    return found


def pieced(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int) -> list[Pieced]:
    """Texts as model inputs of at most `longest` tokens, their control tokens read as plain text.

    Raises:
        DataError: a tokenizer that does not say where its pieces stand.
    """
    if not tokenizer.is_fast:
        raise DataError("augment needs a tokenizer that says where its pieces stand: give the model a tokenizer.json")
    if not texts:
        return []
    found = tokenizer(
        list(texts),
        truncation=True,
        max_length=longest,
        split_special_tokens=True,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    return [
        _placed(text, ids, offsets, special)
        for text, ids, offsets, special in zip(
            texts, found["input_ids"], found["offset_mapping"], found["special_tokens_mask"], strict=True
        )
    ]


def _placed(text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> Pieced:
    words = words_of(text)
    inside: dict[int, list[int]] = {}
    at = {char: index for index, word in enumerate(words) for char in range(word.start, word.end)}
    covered = 0
    for position, ((start, end), control) in enumerate(zip(offsets, special, strict=True)):
        if control or start == end:
            continue
        covered = max(covered, end)
        start += len(text[start:end]) - len(text[start:end].lstrip())  # some count the space before a word to it
        if start in at:
            inside.setdefault(at[start], []).append(position)
    places = [tuple(inside.get(index, ())) if word.end <= covered else () for index, word in enumerate(words)]
    return Pieced(list(ids), words, places)
