"""Whoever is put around a teacher that looks ahead passes on exactly the questions that it will ask."""

import pytest
import torch

from potstill.core.batch import Batch
from potstill.core.signal import DenseLogits, Signal, Voice, Want
from potstill.teachers.ahead import Forewarned, forewarn, release
from potstill.teachers.ensemble import Ensemble
from potstill.teachers.packing import Packing, row_keys
from potstill.teachers.padding import PaddedTeacher
from potstill.teachers.routed import RoutedTeacher
from potstill.teachers.store import SignalStore
from potstill.teachers.stored import StoredTeacher
from tests.teachers.served import VOCABULARY, Counting, batch_of, identity


class Elsewhere:
    """Answers only what it was told of. told: the questions that nobody has asked yet."""

    def __init__(self):
        self.told, self.inner = [], Counting()

    @property
    def voice(self):
        return self.inner.voice

    def expect(self, batch, want):
        self.told.append((row_keys(batch), want))

    def forget(self, batch=None):
        self.told = [] if batch is None else [one for one in self.told if one[0] != row_keys(batch)]

    def signal(self, batch, want):
        self.told.remove((row_keys(batch), want))
        return self.inner.signal(batch, want)


class Here:
    """A teacher without ears for what comes."""

    voice = Voice("here", VOCABULARY)

    def signal(self, batch, want):
        return Signal(self.voice, DenseLogits(torch.zeros(*batch.tokens_BL.shape, VOCABULARY)))


def routed_batch():
    plain = batch_of([1, 2, 3], [4, 5], [6, 7, 8])
    slices = tuple({"kind": kind} for kind in "aba")
    return Batch(plain.ids, plain.tokens_BL, plain.attention_BL, plain.targets_BT, plain.weights, slices=slices)


WRAPPED = {
    "ensemble": lambda far, _: Ensemble([Here(), far]),
    "routes": lambda far, _: RoutedTeacher({"a": far, "b": Here()}, column="kind"),
    "padding": lambda far, _: PaddedTeacher(far, vocabulary_size=9, tokens=9),
    "store": lambda far, folder: stored(far, folder),
    "padded store": lambda far, folder: PaddedTeacher(stored(far, folder), vocabulary_size=9, tokens=9),
}


def stored(far, folder):
    packing = Packing("logits", identity())
    return StoredTeacher(SignalStore(folder, packing.as_meta()), packing, far)


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_is_told_is_what_is_asked(kind, tmp_path):
    far, batch, want = Elsewhere(), routed_batch(), Want()
    teacher = WRAPPED[kind](far, tmp_path)
    assert isinstance(teacher, Forewarned)
    forewarn(teacher, batch, want)
    assert len(far.told) == 1
    teacher.signal(batch, want)
    assert far.told == []
    if "store" in kind:
        forewarn(teacher, batch, want)
        assert far.told == [], "what is kept is not asked again"
        batch = batch_of([9, 9, 9], name="another")
    forewarn(teacher, batch, want)
    release(teacher, batch)
    assert far.told == []
    forewarn(teacher, batch, want)
    release(teacher)
    assert far.told == []


def test_rows_that_came_with_another_batch_are_waited_for_by_nobody(tmp_path):
    far = Elsewhere()
    teacher, batch = stored(far, tmp_path), routed_batch()
    for _ in range(2):
        forewarn(teacher, batch, Want())
    assert len(far.told) == 2
    teacher.signal(batch, Want())
    teacher.signal(batch, Want())
    assert far.told == []


def test_who_cannot_be_told_is_left_alone():
    assert not isinstance(Here(), Forewarned)
    forewarn(Here(), routed_batch(), Want())
    release(Here())
    forewarn(None, routed_batch(), Want())
