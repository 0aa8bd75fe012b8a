"""A teacher and its tutor answer side by side."""

import dataclasses

import pytest
import torch

from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, Signal, Voice, Want
from potstill.divergences.sparse import top_k
from potstill.teachers.tutored import TutoredTeacher
from tests.train.tiny_run import batch_of


@dataclasses.dataclass
class Says:
    """The same logits for every position."""

    name: str
    value: float
    entries: int = 5
    k: int | None = None
    entries_K: torch.Tensor | None = None

    @property
    def voice(self):
        return Voice(self.name, self.entries)

    def signal(self, batch, want):
        logits = torch.full((*batch.tokens_BL.shape, self.entries), self.value)
        said = DenseLogits(logits) if self.k is None else top_k(logits, k=self.k, temperature=1.0)
        return Signal(self.voice, said, entries_K=self.entries_K)


def test_both_answers_are_there_under_a_voice_of_both():
    both = TutoredTeacher(Says("large", 1.0), Says("small", 2.0))
    assert isinstance(both, Teacher)
    said = both.signal(batch_of([0, 1]), Want())
    assert said.logits.logits_BTV.unique().tolist() == [1.0]
    assert said.tutor.logits_BTV.unique().tolist() == [2.0]
    assert said.voice == both.voice
    assert both.voice != TutoredTeacher(Says("small", 2.0), Says("large", 1.0)).voice
    assert both.voice.vocabulary_size == 5


def test_two_vocabularies_are_refused():
    with pytest.raises(SignalError, match=r"large has 5 entries and its tutor small has 6"):
        TutoredTeacher(Says("large", 1.0), Says("small", 2.0, entries=6))


@pytest.mark.parametrize(
    ("teacher", "tutor", "who"),
    [({"k": 2}, {}, "the teacher"), ({}, {"k": 2}, "the tutor"), ({}, {"entries_K": torch.arange(5)}, "the tutor")],
)
def test_what_is_not_whole_is_refused(teacher, tutor, who):
    both = TutoredTeacher(Says("large", 1.0, **teacher), Says("small", 2.0, **tutor))
    with pytest.raises(SignalError, match=f"whole logits, and {who}"):
        both.signal(batch_of([0]), Want())
