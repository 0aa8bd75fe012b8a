"""What is decided between two vocabularies, and what is said of a bridge before the training."""

import pytest
import torch

from potstill.core.errors import SignalError
from potstill.core.signal import Voice
from potstill.teachers.aligned import AlignedTeacher
from potstill.teachers.padding import PaddedTeacher
from potstill.vocabularies import Vocabulary, compared, measured, route
from tests.students.tiny import word_level
from tests.teachers.conftest import Spoken, batch_of
from tests.teachers.test_aligned import Headed, aligner
from tests.teachers.test_aligned import batch_of as rows_of


def vocabulary(rows, size=60, name="a"):
    return Vocabulary(name, word_level(size), rows)


@pytest.mark.parametrize(
    ("allowed", "student", "teacher", "way"),
    [
        ("equal", (60, 60), (60, 60), "equal"),
        ("padded", (60, 60), (60, 60), "equal"),
        ("padded", (60, 60), (64, 60), "padded"),
        ("padded", (64, 60), (60, 60), "padded"),
        ("padded", (64, 60), (70, 60), "padded"),
        ("aligned", (60, 60), (60, 58), "aligned"),
    ],
)
def test_how_a_teacher_is_heard(allowed, student, teacher, way):
    assert route(allowed, vocabulary(*student), vocabulary(*teacher)) == way


@pytest.mark.parametrize(
    ("allowed", "student", "teacher", "words"),
    [
        ("equal", (60, 60), (64, 60), ["60 vocabulary rows", "has 64", "60 tokens", "teacher.vocabulary: padded"]),
        ("aligned", (60, 60), (64, 60), ["60 vocabulary rows", "has 64", "teacher.vocabulary: padded"]),
        ("padded", (60, 62), (64, 62), ["62 tokens reach beyond 60"]),
        ("equal", (60, 60), (60, 58), ["different tokenizers", "with 60 tokens", "with 58", "aligned"]),
        ("padded", (60, 60), (60, 58), ["different tokenizers"]),
    ],
)
def test_what_is_not_allowed_is_refused_with_both_values(allowed, student, teacher, words):
    with pytest.raises(SignalError) as refusal:
        route(allowed, vocabulary(*student, name="ours"), vocabulary(*teacher, name="theirs"))
    for word in [*words, "ours", "theirs"]:
        assert word in str(refusal.value)


def test_the_tokenizers_fingerprints_are_named():
    ours, theirs = vocabulary(60, 60), vocabulary(60, 58)
    with pytest.raises(SignalError) as refusal:
        route("equal", ours, theirs)
    assert ours.fingerprint[:16] in str(refusal.value)
    assert theirs.fingerprint[:16] in str(refusal.value)


def test_what_is_left_out_is_said_and_returned():
    said = []
    padded = PaddedTeacher(Spoken(torch.zeros(3, 1, 8)), vocabulary_size=6, tokens=5)
    found = measured(said.append, [padded, Spoken(torch.zeros(3, 1, 6))], lambda: [batch_of([0, 1])])
    assert found == [
        {"teacher": "spoken-rows-6", "vocabulary": "padded", "mean": 0.25, "largest": 0.25, "positions": 2}
    ]
    assert "2.50e-01 of its probability" in said[0]


def test_a_teacher_that_is_never_on_the_same_text_is_refused():
    teacher = AlignedTeacher(Headed(), aligner(), vocabulary_size=7)
    inside = rows_of([[1, 2]])  # a|b, where the teacher's only token ends with b, the row's last position
    with pytest.raises(SignalError, match="at none of 1 positions"):
        measured(print, [teacher], lambda: [inside])
    assert teacher.voice == Voice(f"headed-aligned-{'f' * 16}", 7)


def test_batches_count_where_every_aligned_teacher_is_compared():
    batch = rows_of()
    whole = compared(lambda encoded, epoch: batch, [Spoken(torch.zeros(1, 1, 2))])([], 0)
    assert whole is batch
    teacher = AlignedTeacher(Headed(), aligner(), vocabulary_size=7)
    cut = compared(lambda encoded, epoch: batch, [teacher])([], 0)
    assert torch.equal(cut.weights["soft"], teacher.aligner.compared(batch).weights["soft"])
    assert torch.equal(cut.weights["hard"], batch.weights["hard"])
