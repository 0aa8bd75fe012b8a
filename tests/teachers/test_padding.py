import pytest
import torch

from potstill.core.errors import SignalError
from potstill.core.signal import DenseLogits, HeadedStates, OutputHead, Outputs, Signal, Voice, Want
from potstill.divergences.catalogue import DIVERGENCES
from potstill.divergences.sparse import top_k
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings
from potstill.teachers.padding import PaddedTeacher


def logits(entries, rows=3, positions=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, positions, entries, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize(("theirs", "ours"), [(9, 7), (7, 9)])
def test_it_is_the_divergence_over_the_rows_both_have(spoken, rows, divergence, theirs, ours):
    """Both softmaxes are over the shared rows alone, whichever table is longer."""
    teacher, student = logits(theirs), logits(ours, seed=1)
    padded = PaddedTeacher(spoken(teacher), vocabulary_size=ours, tokens=6)
    batch = rows([0, 1, 2], positions=4)
    objective = Hinton(ObjectiveSettings(divergence=divergence, temperature=2.0))
    loss = objective.loss(batch, padded.signal(batch, Want()), Outputs(student))
    row = DIVERGENCES[divergence]
    pair = [(one[..., :7] / 2).log_softmax(-1) for one in (teacher, student)]
    assert loss.total.item() == pytest.approx(4 * row.function(*pair, **row.parameters).mean().item(), abs=1e-12)


def test_what_is_removed_is_measured(spoken, rows):
    teacher = logits(9)
    padded = PaddedTeacher(spoken(teacher), vocabulary_size=7, tokens=6)
    gone = teacher.softmax(-1)[..., 7:].sum(-1)
    found = padded.mass([rows([0, 1], positions=4), rows([2], positions=4)])
    assert found.positions == 12
    assert found.mean == pytest.approx(gone.mean().item(), rel=1e-5)
    assert found.largest == pytest.approx(gone.max().item(), rel=1e-5)
    assert padded.mass([rows([0, 1, 2], positions=4)], sample=5).positions == 5
    assert PaddedTeacher(spoken(logits(7)), vocabulary_size=9, tokens=6).mass([rows([0], positions=4)]).positions == 0


def test_a_token_beyond_the_shared_rows_is_refused_with_both_numbers(spoken):
    with pytest.raises(SignalError, match="9 rows and the student 7, but the tokenizer has 8 tokens"):
        PaddedTeacher(spoken(logits(9)), vocabulary_size=7, tokens=8)


class Says:
    """A teacher with one answer."""

    def __init__(self, said, size):
        self.said, self.voice = said, Voice("says", size)

    def signal(self, batch, want):
        return Signal(self.voice, self.said)


def test_states_keep_their_head_without_the_padding(rows):
    generator = torch.Generator().manual_seed(0)
    head = OutputHead(torch.randn(9, 3, generator=generator), torch.randn(9, generator=generator), 2.0, 5.0)
    states = torch.randn(1, 4, 3, generator=generator)
    padded = PaddedTeacher(Says(HeadedStates(states, head), 9), vocabulary_size=7, tokens=7)
    found = padded.signal(rows([0], positions=4), Want(headed=True)).logits
    assert torch.equal(found.head.logits(states), head.logits(states)[..., :7])
    gone = head.logits(states).softmax(-1)[..., 7:].sum(-1)
    assert padded.mass([rows([0], positions=4)]).mean == pytest.approx(gone.mean().item(), rel=1e-5)


def test_a_padding_row_among_the_top_entries_is_refused(rows):
    whole = logits(9, rows=1)
    kept = top_k(whole, k=9, temperature=1.0)
    padded = PaddedTeacher(Says(kept, 9), vocabulary_size=7, tokens=7)
    with pytest.raises(SignalError, match="from 7 on are padding"):
        padded.signal(rows([0], positions=4), Want(top_k=9))
    sound = top_k(whole.clone().index_fill(-1, torch.tensor([7, 8]), -50.0), k=3, temperature=1.0)
    assert PaddedTeacher(Says(sound, 9), vocabulary_size=7, tokens=7).signal(rows([0], positions=4), Want(top_k=3))


def test_the_voice_says_so(spoken):
    assert PaddedTeacher(spoken(logits(9)), vocabulary_size=7, tokens=6).voice == Voice("spoken-rows-7", 7)


def test_without_it_the_difference_is_refused(spoken, rows):
    batch = rows([0, 1, 2], positions=4)
    signal = Signal(Voice("a", 9), DenseLogits(logits(9)))
    with pytest.raises(SignalError, match="9 entries and the student of 7"):
        Hinton(ObjectiveSettings()).loss(batch, signal, Outputs(logits(7)))
