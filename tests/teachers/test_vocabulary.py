"""Alignment over tokenizers small enough to work out by hand, and over the two packaged ones on real prose."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potstill.core.errors import SignalError
from potstill.teachers.vocabulary import Pieces, pieces_of, read_again, shared_tokens


def pieces(words, start=None, end=None, fallback=()):
    """Control tokens are those written as None."""
    written = tuple(None if word is None else word.encode() if isinstance(word, str) else word for word in words)
    return Pieces(written, start, end, "f" * 64, frozenset(fallback))


STUDENT = pieces([None, "a", "b", "ab", "c", "é", " "], end=0)
TEACHER = pieces([None, None, "ab", "c", "a", b"\xc3", b"\xa9", "bc", " ", "e", "b"], start=1, end=0)


def greedy(tokenizer):
    """The longest piece first: a tokenizer without rules."""

    def encode(text):
        left, found = text.encode(), []
        while left:
            best = max(
                (one for one, piece in enumerate(tokenizer.written) if piece and left.startswith(piece)),
                key=lambda one: len(tokenizer.written[one]),
            )
            found.append(best)
            left = left[len(tokenizer.written[best]) :]
        return found

    return encode


def read(tokens, student=STUDENT, teacher=TEACHER, limit=100):
    return read_again(tokens, student, teacher, greedy(teacher), limit)


def pairs(reading):
    return list(zip(reading.student_N.tolist(), reading.teacher_N.tolist(), strict=True))


def test_by_hand():
    """Student a|b|c|end, teacher start|ab|c|end: after "a" the teacher is still inside its token."""
    found = read([1, 2, 4, 0])
    assert found.tokens.tolist() == [1, 2, 3, 0]
    assert pairs(found) == [(1, 1), (2, 2), (3, 3)]


def test_a_character_in_two_bytes_is_one_place_at_its_end():
    found = read([5, 1])  # é|a against the two bytes of é, then a
    assert found.tokens.tolist() == [1, 5, 6, 4]
    assert pairs(found) == [(0, 2), (1, 3)]


def test_a_packed_row_is_read_document_by_document():
    """The teacher starts each document; its start stands where the next text is still to come, as the student's end."""
    found = read([1, 2, 0, 4])
    assert found.tokens.tolist() == [1, 2, 0, 1, 3]
    assert pairs(found) == [(1, 1), (2, 3), (3, 4)]


def test_a_student_with_a_start_and_a_teacher_without():
    found = read([1, 3, 0, 1, 2], student=TEACHER, teacher=STUDENT)  # start|c|end|start|ab
    assert found.tokens.tolist() == [4, 0, 3]
    assert pairs(found) == [(1, 0), (3, 1), (4, 2)]


def test_after_another_control_token_nothing_is_compared():
    student = pieces([None, "a", None, "c"], end=0)
    assert pairs(read([1, 2, 3], student=student)) == [(0, 1)]


def test_a_row_cut_inside_a_character_is_compared_up_to_it():
    student = pieces([None, "a", b"\xc3"], end=0)
    assert pairs(read([1, 2], student=student)) == [(0, 1)]


def test_a_row_that_begins_inside_a_character_is_not_compared():
    student = pieces([None, "a", b"\xa9"], end=0)
    assert pairs(read([2, 1], student=student)) == []


def test_what_the_teacher_does_not_read_is_not_compared():
    assert pairs(read([1, 2, 4, 0], limit=3)) == [(1, 1), (2, 2)]
    assert len(read([1, 2, 4, 0], limit=3).tokens) == 3


def test_a_teacher_that_writes_another_text_is_heard_up_to_there():
    """As a tokenizer does that normalises: é becomes e."""
    found = read_again([1, 5, 1], STUDENT, TEACHER, lambda text: greedy(TEACHER)(text.replace("é", "e")), 100)
    assert pairs(found) == [(0, 1)]


def test_a_space_put_before_the_first_word_is_taken_off():
    found = read_again([1, 4], STUDENT, TEACHER, lambda text: greedy(TEACHER)(" " + text), 100)
    assert found.tokens.tolist() == [1, 8, 4, 3]
    assert pairs(found) == [(0, 2), (1, 3)]


def test_every_pair_has_the_same_text_before_it():
    """The definition, on random rows: an independent look at the bytes."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        tokens = draw.choice([0, 1, 2, 3, 4, 5, 6], size=draw.integers(1, 12)).tolist()
        found = read(tokens)
        for own, other in pairs(found):
            ours = b"".join(STUDENT.written[one] or b"|" for one in tokens[: own + 1])
            theirs = b"".join(TEACHER.written[one] or (b"|" if one == 0 else b"") for one in found.tokens[: other + 1])
            assert ours == theirs
        assert len(set(found.teacher_N.tolist())) == len(found.teacher_N)


def test_shared_tokens():
    found = shared_tokens(STUDENT, TEACHER)
    assert dict(zip(found.student_K.tolist(), found.teacher_K.tolist(), strict=True)) == {
        0: 0,
        1: 4,
        2: 10,
        3: 2,
        4: 3,
        6: 8,
    }


def test_a_real_piece_goes_before_a_lone_byte():
    assert pieces(["x", "a", "a"], fallback=(1,)).ids == {b"x": 0, b"a": 2}


def test_nothing_in_common_is_refused():
    with pytest.raises(SignalError, match="share 0 tokens"):
        shared_tokens(pieces(["a"]), pieces(["b"]))


def test_pieces_of_a_byte_level_tokenizer():
    backend = Tokenizer(models.BPE({"a": 0, "Ġa": 1, "Ã©": 2, "Ċ": 3}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    found = pieces_of(tokenizer, "x")
    assert found.written == (b"a", b" a", "é".encode(), b"\n", None)
    assert (found.start, found.end) == (None, 4)


def test_pieces_of_a_sentencepiece_tokenizer():
    backend = Tokenizer(models.BPE({"▁a": 0, "<0x0A>": 1, "é": 2}, []))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    found = pieces_of(PreTrainedTokenizerFast(tokenizer_object=backend), "x")
    assert found.written == (b" a", b"\n", "é".encode())
    assert found.fallback == {1}


def test_a_tokenizer_that_does_not_say_how_its_pieces_join_is_refused():
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(SignalError, match="cannot be aligned"):
        pieces_of(PreTrainedTokenizerFast(tokenizer_object=backend), "abc")
