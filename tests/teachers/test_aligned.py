import dataclasses

import pytest
import torch

from potstill.core.batch import Batch, next_token_targets
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, HeadedStates, OutputHead, Outputs, Signal, SparseLogprobs, Voice, Want
from potstill.divergences.catalogue import DIVERGENCES
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings
from potstill.teachers.aligned import AlignedTeacher, Aligner
from potstill.teachers.vocabulary import read_again, shared_tokens
from tests.teachers.test_vocabulary import STUDENT, TEACHER, greedy

ROWS = ([1, 2, 4, 0], [5, 3, 6, 1, 0], [4, 0, 1, 2])
V_T = len(TEACHER.written)


def batch_of(rows=ROWS):
    length = max(map(len, rows))
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    attention = torch.zeros(len(rows), length, dtype=torch.bool)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        attention[index, : len(row)] = True
    targets, weights = next_token_targets(tokens, attention)
    return Batch(tuple(map(str, range(len(rows)))), tokens, attention, targets, {"hard": weights, "soft": weights})


class Headed:
    """A teacher whose states are a function of token and position, so that a misplaced one shows."""

    def __init__(self, kind="headed"):
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(V_T, 6, generator=generator)
        self.places = torch.randn(20, 6, generator=generator)
        head = torch.randn(V_T, 6, generator=generator)
        self.head = OutputHead(head, torch.randn(V_T, generator=generator), 1.5, 8.0)
        self.kind, self.voice, self.seen = kind, Voice("headed", V_T), []

    def states(self, tokens_BL):
        return self.table[tokens_BL] + self.places[: tokens_BL.shape[1]]

    def signal(self, batch, want):
        self.seen.append(batch)
        states = self.states(batch.tokens_BL)
        if self.kind == "sparse":
            zeros = torch.zeros(*batch.tokens_BL.shape, 1)
            return Signal(self.voice, SparseLogprobs(zeros.long(), zeros, zeros[..., 0]))
        whole = HeadedStates(states, self.head)
        return Signal(self.voice, whole if self.kind == "headed" else DenseLogits(self.head.logits(states)))


def aligner():
    shared = shared_tokens(STUDENT, TEACHER)
    return Aligner(STUDENT, TEACHER, shared, greedy(TEACHER), limit=100, filler=0)


def aligned(kind="headed"):
    return AlignedTeacher(Headed(kind), aligner(), vocabulary_size=len(STUDENT.written))


@pytest.mark.parametrize("kind", ["headed", "dense"])
def test_each_compared_position_has_the_teachers_logits_of_its_place(kind):
    teacher, batch = aligned(kind), batch_of()
    signal = teacher.signal(batch, Want())
    assert signal.voice.vocabulary_size == len(STUDENT.written)
    assert signal.entries_K.tolist() == [0, 1, 2, 3, 4, 6]
    whole = Headed()
    compared = teacher.aligner.compared(batch).weights["soft"]
    number = 0
    for row, tokens in enumerate(ROWS):
        found = read_again(tokens, STUDENT, TEACHER, greedy(TEACHER), 100)
        logits = whole.head.logits(whole.states(torch.from_numpy(found.tokens)[None]))[0]
        for own, other in zip(found.student_N, found.teacher_N, strict=True):
            if own + 1 < len(tokens):  # the last position predicts nothing
                expected = logits[other, [0, 4, 10, 2, 3, 8]]
                assert torch.allclose(signal.logits.logits_BTV[row, own], expected, atol=1e-6)
                assert compared[row, own] == 1
                number += 1
    assert compared.sum() == number


def test_states_and_a_smaller_head_say_the_same():
    teacher, batch = aligned(), batch_of()
    dense = teacher.signal(batch, Want()).logits.logits_BTV
    headed = teacher.signal(batch, Want(headed=True)).logits
    compared = teacher.aligner.compared(batch).weights["soft"] != 0
    assert headed.head.weight_VD.shape == (6, 6)
    assert torch.allclose(headed.head.logits(headed.states_BTD)[compared], dense[compared], atol=1e-6)


def test_the_objective_renormalises_both_over_the_shared_tokens():
    teacher, batch = aligned(), batch_of()
    batch = teacher.aligner.compared(batch)
    signal = teacher.signal(batch, Want())
    student = torch.randn(*batch.targets_BT.shape, len(STUDENT.written), generator=torch.Generator().manual_seed(5))
    loss = Hinton(ObjectiveSettings()).loss(batch, signal, Outputs(student))
    where = batch.weights["soft"] != 0
    pair = signal.logits.logits_BTV[where].log_softmax(-1), student[where][:, signal.entries_K].log_softmax(-1)
    assert loss.total.item() == pytest.approx(DIVERGENCES["forward_kl"].function(*pair).mean().item(), rel=1e-5)
    assert loss.counts["soft"] == where.sum()


def test_equal_teachers_give_zero_loss_and_no_gradient():
    """The student whose logits over the shared tokens are the teacher's."""
    teacher, batch = aligned(), batch_of()
    batch = teacher.aligner.compared(batch)
    signal = teacher.signal(batch, Want())
    student = torch.full((*batch.targets_BT.shape, len(STUDENT.written)), 3.0)
    student[..., signal.entries_K] = signal.logits.logits_BTV + 2.0
    student.requires_grad_()
    loss = Hinton(ObjectiveSettings()).loss(batch, signal, Outputs(student))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6


def test_prompts_stay_untaught():
    batch = batch_of()
    weights = {**batch.weights, "soft": torch.zeros_like(batch.weights["soft"])}
    assert aligner().compared(dataclasses.replace(batch, weights=weights)).weights["soft"].sum() == 0


def test_the_teacher_reads_its_own_tokens_and_nothing_of_the_filler():
    teacher, batch = aligned(), batch_of()
    teacher.signal(batch, Want())
    (seen,) = teacher._inner.seen
    assert seen.tokens_BL[0].tolist()[:4] == [1, 2, 3, 0]
    assert seen.attention_BL.sum(1).tolist() == [
        len(read_again(r, STUDENT, TEACHER, greedy(TEACHER), 100).tokens) for r in ROWS
    ]


def test_coverage_is_counted():
    teacher = aligned()
    found = teacher.coverage([batch_of(ROWS[:2]), batch_of(ROWS[2:])])
    assert found.positions == 3 + 4 + 3
    assert found.compared == 2 + 4 + 2
    assert found.shared == 6
    assert 0 < found.mass < 1
    assert found.sampled == found.compared
    assert found.share == pytest.approx(0.8)


def test_what_cannot_be_restricted_is_refused():
    with pytest.raises(SignalError, match="sends SparseLogprobs"):
        aligned("sparse").signal(batch_of(), Want())
    with pytest.raises(SignalError, match="another tokenizer has no states"):
        aligned().signal(batch_of(), Want(hidden_layers=(0,)))


def test_it_is_a_teacher_and_names_both():
    teacher = aligned()
    assert isinstance(teacher, Teacher)
    assert teacher.voice.teacher == f"headed-aligned-{'f' * 16}"


def test_readings_are_kept_and_not_without_end(monkeypatch):
    from potstill.teachers import aligned as room

    monkeypatch.setattr(room, "KEPT", 2)
    one = aligner()
    for row in ROWS:
        one.read(batch_of([row]))
    assert len(one._known) == 2
