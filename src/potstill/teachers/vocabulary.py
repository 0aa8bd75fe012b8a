"""Two tokenizers on one text: what each id writes, which tokens both know, and where their readings meet.

Everything is done in bytes. Byte-level and SentencePiece vocabularies spell the same text with other letters, and a
token may end inside a character; bytes are what both of them write in the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from potstill.core.errors import SignalError

_SPACE = "\u2581"  # how SentencePiece writes a space
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# A place in a text: documents ended before it, and bytes of the present one.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pieces:
    """What a tokenizer's ids write. written: the bytes of each id, None for control tokens and unused ids.

    start: the token it puts before a text, if it does; end: of a text. fingerprint: SHA-256 of its rules.
    """

    written: tuple[bytes | None, ...]
    start: int | None
    end: int | None
    fingerprint: str
    fallback: frozenset[int] = frozenset()

    @property
    def ids(self) -> dict[bytes, int]:
        """Bytes -> id. Where several ids write the same, it is a real piece before a lone byte, then the lowest."""
        order = sorted(range(len(self.written)), key=lambda one: (one in self.fallback, one))
        found: dict[bytes, int] = {}
        for one in order:
            if text := self.written[one]:
                found.setdefault(text, one)
        return found


def pieces_of(tokenizer: PreTrainedTokenizerBase, fingerprint: str) -> Pieces:
    """Raises SignalError for a tokenizer that is neither byte-level nor SentencePiece with spaces written as marks."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    read = _reader(rules, fingerprint)
    added = {entry["id"]: entry for entry in rules["added_tokens"]}
    size = max(tokenizer.get_vocab().values()) + 1
    written: list[bytes | None] = [None] * size
    fallback = set()
    for piece, index in tokenizer.get_vocab().items():
        if index in added:
            written[index] = None if added[index]["special"] else piece.encode()
            continue
        written[index] = read(piece)
        if _BYTE.fullmatch(piece):
            fallback.add(index)
    framed = tokenizer("")["input_ids"]
    start = framed[0] if framed and framed[0] == tokenizer.bos_token_id else None
    for control in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if control is not None:
            written[control] = None
    return Pieces(tuple(written), start, tokenizer.eos_token_id, fingerprint, frozenset(fallback))


def _reader(rules: Mapping[str, Any], fingerprint: str) -> Callable[[str], bytes]:
    decoders = rules.get("decoder") or {}
    kinds = [one["type"] for one in decoders.get("decoders", [decoders]) if one]
    if "ByteLevel" in kinds:
        bytes_of = _byte_letters()
        return lambda piece: b"".join(bytes_of.get(letter, letter.encode()) for letter in piece)
    if "ByteFallback" in kinds or "Metaspace" in kinds:
        return lambda piece: _lone_byte(piece) or piece.replace(_SPACE, " ").encode()
    raise SignalError(
        f"the tokenizer {fingerprint[:16]} ({rules['model']['type']}) does not say how its pieces join to a text, so "
        "it cannot be aligned with another: use models with one tokenizer"
    )


def _lone_byte(piece: str) -> bytes | None:
    found = _BYTE.fullmatch(piece)
    return bytes([int(found.group(1), 16)]) if found else None


def _byte_letters() -> dict[str, bytes]:
    """GPT-2's alphabet (Radford et al. 2019): printable bytes stand for themselves, the others for letters from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): bytes([byte]) for byte in printable}
    return letters | {chr(256 + place): bytes([byte]) for place, byte in enumerate(others)}


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """Tokens that both vocabularies write alike, in the order of the student's ids; the ends of a text are one."""

    student_K: Int[np.ndarray, " K"]
    teacher_K: Int[np.ndarray, " K"]


def shared_tokens(student: Pieces, teacher: Pieces) -> Shared:
    """Raises SignalError when they share nothing."""
    theirs = teacher.ids
    pairs = {own: theirs[text] for text, own in student.ids.items() if text in theirs}
    if student.end is not None and teacher.end is not None:
        pairs[student.end] = teacher.end
    if len(pairs) < 2:
        raise SignalError(
            f"the tokenizers {student.fingerprint[:16]} (student) and {teacher.fingerprint[:16]} (teacher) share "
            f"{len(pairs)} tokens: nothing can be compared; use a teacher that writes the same script"
        )
    ordered = sorted(pairs.items())
    return Shared(np.array([own for own, _ in ordered]), np.array([other for _, other in ordered]))


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One row of the student as the teacher reads it. student_N and teacher_N: positions after the same text."""

    tokens: Int[np.ndarray, " L"]
    student_N: Int[np.ndarray, " N"]
    teacher_N: Int[np.ndarray, " N"]


def read_again(
    tokens: Sequence[int], student: Pieces, teacher: Pieces, encode: Callable[[str], Sequence[int]], limit: int
) -> Reading:
    """The student's row in the teacher's tokens, and the pairs of positions whose decoded prefixes agree.

    A position counts as the last one of its side at that place of the text, where the next text is still to come. The
    teacher's own start is put before each document where its tokenizer does so. What follows another control token, or
    a document that is not valid text or that the teacher writes differently, is not compared. encode: the teacher's
    tokens of a plain text; limit: the most tokens it reads.
    """
    places: list[Place | None] = []
    answer: list[int] = []
    answered: list[Place | None] = []
    for number, (document, ended) in enumerate(_documents(tokens, student, places)):
        if teacher.start is not None:
            answer.append(teacher.start)
            answered.append((number, 0))
        whole = _spoken(document, number, teacher, encode, answer, answered)
        if not whole or not ended or teacher.end is None:
            break
        answer.append(teacher.end)
        answered.append((number + 1, 0))
    theirs = {place: position for position, place in enumerate(answered[:limit]) if place is not None}
    ours = {place: position for position, place in enumerate(places) if place is not None}
    met = sorted((position, theirs[place]) for place, position in ours.items() if place in theirs)
    return Reading(
        tokens=np.array(answer[:limit], dtype=np.int64),
        student_N=np.array([own for own, _ in met], dtype=np.int64),
        teacher_N=np.array([other for _, other in met], dtype=np.int64),
    )


def _documents(tokens: Sequence[int], student: Pieces, places: list[Place | None]) -> Iterator[tuple[bytes, bool]]:
    """The texts of a row, and whether each was ended; appends the place after each token to `places`."""
    number, text = 0, b""
    for token in tokens:
        written = student.written[token] if token < len(student.written) else None
        if written is not None:
            text += written
            places.append((number, len(text)))
        elif token == student.end:
            yield text, True
            number, text = number + 1, b""
            places.append((number, 0))
        elif token == student.start and not text:
            places.append((number, 0))
        else:
            places += [None] * (len(tokens) - len(places))
            break
    if text:
        yield text, False


def _spoken(
    document: bytes,
    number: int,
    teacher: Pieces,
    encode: Callable[[str], Sequence[int]],
    answer: list[int],
    answered: list[Place | None],
) -> bool:
    """Append the teacher's tokens of one document and their places; whether it wrote exactly this text."""
    text = _valid(document)
    ids = list(encode(text)) if text else []
    written = [teacher.written[one] or b"" for one in ids]
    spelt, expected = b"".join(written), text.encode()
    if spelt == b" " + expected:  # SentencePiece's habit of a space before the first word
        written[0], spelt = written[0][1:], expected
    same = len(expected) if spelt == expected else _common(spelt, expected)
    end = 0
    for one, part in zip(ids, written, strict=True):
        end += len(part)
        answer.append(one)
        answered.append((number, end) if end <= same else None)
    return spelt == expected == document


def _valid(document: bytes) -> str:
    """The text up to the first byte that is not UTF-8: a row may be cut inside a character."""
    try:
        return document.decode()
    except UnicodeDecodeError as error:
        return document[: error.start].decode()


def _common(one: bytes, other: bytes) -> int:
    """Length of the common beginning."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
