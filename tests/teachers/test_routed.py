import dataclasses

import pytest
import torch

from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, Signal, Voice, Want
from potstill.divergences.sparse import top_k
from potstill.teachers.ensemble import Ensemble
from potstill.teachers.padding import PaddedTeacher
from potstill.teachers.routed import RoutedTeacher


def logits(rows, entries=5, seed=0):
    return torch.randn(rows, 2, entries, generator=torch.Generator().manual_seed(seed))


def named(batch, values, column="source"):
    return dataclasses.replace(batch, slices=tuple({column: value} for value in values))


def test_each_row_is_answered_by_the_teacher_it_names(spoken, rows):
    one, other = spoken(logits(4), "one"), spoken(logits(4, seed=1), "other")
    routed = RoutedTeacher({"code": one, "prose": other, "news": other}, column="source")
    batch = named(rows([2, 0, 3, 1], positions=2), ["prose", "code", "news", "code"])
    found = routed.signal(batch, Want()).logits.logits_BTV
    assert torch.equal(found, torch.stack([other.logits[2], one.logits[0], other.logits[3], one.logits[1]]))
    assert (one.asked, other.asked) == (2, 2), "each teacher reads its rows once and no others"
    assert isinstance(routed, Teacher)
    assert routed.voice.vocabulary_size == 5


def test_an_ensemble_may_stand_behind_a_name(spoken, rows):
    alone = spoken(logits(2), "one")
    both = Ensemble([alone, spoken(logits(2, seed=1), "other")])
    routed = RoutedTeacher({"a": alone, "b": both}, column="source")
    batch = named(rows([0, 1], positions=2), ["a", "b"])
    expected = both.signal(rows([1], positions=2), Want()).logits.logits_BTV[0]
    found = routed.signal(batch, Want()).logits.logits_BTV
    assert torch.equal(found[0], alone.logits[0])
    assert torch.equal(found[1], expected)


class TopK:
    def __init__(self, whole, k, temperature=1.0):
        self.whole, self.k, self.temperature, self.voice = whole, k, temperature, Voice(f"top-{k}", whole.shape[-1])

    def signal(self, batch, want):
        kept = top_k(self.whole[list(batch.rows)], k=self.k, temperature=self.temperature)
        return Signal(voice=self.voice, logits=kept)


def test_top_k_signals_are_put_together(rows):
    one, other = TopK(logits(2), 3), TopK(logits(2, seed=1), 3)
    batch = named(rows([0, 1], positions=2), ["a", "b"])
    found = RoutedTeacher({"a": one, "b": other}, column="source").signal(batch, Want(top_k=3)).logits
    for row, teacher in enumerate((one, other)):
        kept = top_k(teacher.whole[[row]], k=3, temperature=1.0)
        assert torch.equal(found.indices_BTK[row], kept.indices_BTK[0])
        assert torch.equal(found.logprobs_BTK[row], kept.logprobs_BTK[0])
        assert torch.equal(found.log_tail_BT[row], kept.log_tail_BT[0])


@pytest.mark.parametrize(
    ("other", "words"),
    [(lambda: TopK(logits(2), 2), "different"), (lambda: TopK(logits(2), 3, 2.0), "different")],
)
def test_top_k_signals_that_differ_are_refused(rows, other, words):
    routed = RoutedTeacher({"a": TopK(logits(2), 3), "b": other()}, column="source")
    with pytest.raises(SignalError, match=words):
        routed.signal(named(rows([0, 1], positions=2), ["a", "b"]), Want())


def test_dense_and_sparse_do_not_stand_in_one_batch(spoken, rows):
    routed = RoutedTeacher({"a": TopK(logits(2), 3), "b": spoken(logits(2))}, column="source")
    with pytest.raises(SignalError, match="DenseLogits, SparseLogprobs"):
        routed.signal(named(rows([0, 1], positions=2), ["a", "b"]), Want())


def test_an_unknown_name_is_refused_with_its_row(spoken, rows):
    routed = RoutedTeacher({"code": spoken(logits(2))}, column="source")
    with pytest.raises(SignalError, match=r"row example-1: its `source` is `verse`, and teacher\.routes knows `code`"):
        routed.signal(named(rows([0, 1], positions=2), ["code", "verse"]), Want())


def test_a_missing_column_is_refused_with_those_there_are(spoken, rows):
    routed = RoutedTeacher({"code": spoken(logits(2))}, column="source")
    with pytest.raises(SignalError, match=r"row example-0 has no column `source`.*`topic`"):
        routed.signal(named(rows([0], positions=2), ["code"], column="topic"), Want())
    with pytest.raises(SignalError, match="its columns: none"):
        routed.signal(rows([0], positions=2), Want())


def test_vocabularies_must_agree(spoken, rows):
    with pytest.raises(SignalError, match="`a` has 5, `b` has 6"):
        RoutedTeacher({"a": spoken(logits(1)), "b": spoken(logits(1, entries=6))}, column="source")
    short = PaddedTeacher(spoken(logits(2, entries=4)), vocabulary_size=5, tokens=4)
    routed = RoutedTeacher({"a": spoken(logits(2)), "b": short}, column="source")
    with pytest.raises(SignalError, match="different entries"):
        routed.signal(named(rows([0, 1], positions=2), ["a", "b"]), Want())


def test_layers_are_refused(spoken, rows):
    routed = RoutedTeacher({"a": spoken(logits(1))}, column="source")
    with pytest.raises(SignalError, match="no hidden states"):
        routed.signal(named(rows([0], positions=2), ["a"]), Want(hidden_layers=(1,)))


def test_the_voice_tells_routes_apart(spoken):
    one, other = spoken(logits(1), "one"), spoken(logits(1), "other")
    voices = {
        RoutedTeacher(routes, column=column).voice.teacher
        for routes, column in (
            ({"a": one, "b": other}, "source"),
            ({"a": other, "b": one}, "source"),
            ({"a": one, "b": other}, "topic"),
        )
    }
    assert len(voices) == 3
    with pytest.raises(ValueError, match="no routes"):
        RoutedTeacher({}, column="source")


def test_an_ensemble_over_different_entries_is_refused(spoken, rows):
    short = PaddedTeacher(spoken(logits(2, entries=4)), vocabulary_size=5, tokens=4)
    with pytest.raises(SignalError, match="other entries"):
        Ensemble([spoken(logits(2)), short]).signal(rows([0, 1], positions=2), Want())
    again = PaddedTeacher(spoken(logits(2, entries=4, seed=3)), vocabulary_size=5, tokens=4)
    assert Ensemble([short, again]).signal(rows([0, 1], positions=2), Want()).entries_K.tolist() == [0, 1, 2, 3]
    assert isinstance(Ensemble([short, again]).signal(rows([0], positions=2), Want()).logits, DenseLogits)
