import dataclasses

import pytest
import torch

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Objective
from potstill.core.signal import DenseLogits, HeadedStates, OutputHead, Outputs, Signal, Voice, Want
from potstill.divergences.catalogue import DIVERGENCES
from potstill.objectives.fused import FusedHinton
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings

S, D, V = 4, 6, 9


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Pair:
    """The same student and teacher, heard by their logits and by their last states, in double precision."""

    def __init__(self, soft=None, hard=None, dtype=torch.float64, **settings):
        ones = torch.ones(3, 4)
        self.soft = ones if soft is None else torch.as_tensor(soft).float()
        self.hard = ones if hard is None else torch.as_tensor(hard).float()
        self.settings = ObjectiveSettings(fused=True, **settings)
        self.ours = OutputHead(random(V, S, seed=1), bias_V=random(V, seed=5).requires_grad_(), softcap=6.0)
        self.ours = dataclasses.replace(self.ours, weight_VD=self.ours.weight_VD.requires_grad_())
        self.theirs = OutputHead(random(V, D, seed=2), scale=0.5)
        self.student, self.teacher = random(3, 4, S, seed=3).requires_grad_(), random(3, 4, D, seed=4)
        self.targets = torch.randint(0, V, (3, 4), generator=torch.Generator().manual_seed(7))

    def batch(self, rows=slice(None)):
        targets = self.targets[rows]
        weights = {"soft": self.soft[rows], "hard": self.hard[rows]}
        return Batch(tuple(map(str, range(len(targets)))), targets, torch.ones_like(targets).bool(), targets, weights)

    def fused(self, rows=slice(None), totals=None, entries=None):
        theirs = self.theirs if entries is None else self.theirs.over(entries)
        signal = Signal(Voice("t", V), HeadedStates(self.teacher[rows], theirs), entries_K=entries)
        outputs = Outputs(None, headed=HeadedStates(self.student[rows], self.ours))
        return FusedHinton(self.settings).loss(self.batch(rows), signal, outputs, totals)

    def plain(self, rows=slice(None), totals=None, entries=None):
        theirs = self.theirs if entries is None else self.theirs.over(entries)
        signal = Signal(Voice("t", V), DenseLogits(theirs.logits(self.teacher[rows])), entries_K=entries)
        outputs = Outputs(self.ours.logits(self.student[rows]))
        return Hinton(self.settings.model_copy(update={"fused": False})).loss(self.batch(rows), signal, outputs, totals)

    def gradients(self, loss):
        learning = [self.student, self.ours.weight_VD, self.ours.bias_V]
        return torch.autograd.grad(loss.total, learning, materialize_grads=True)


def check_equal(pair, found, expected):
    torch.testing.assert_close(found.total, expected.total)
    assert found.parts == pytest.approx(expected.parts)
    assert found.counts == expected.counts
    for one, other in zip(pair.gradients(found), pair.gradients(expected), strict=True):
        torch.testing.assert_close(one, other)


SOFT, HARD = [[1, 1, 0, 0.5], [0, 0, 1, 1], [1, 1, 2, 1]], [[0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0.5, 1]]


@pytest.mark.parametrize("hard_weight", [0.0, 0.4])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_value_parts_and_gradients_are_those_of_logits(divergence, hard_weight):
    pair = Pair(SOFT, HARD, divergence=divergence, temperature=2.0, soft_weight=0.7, hard_weight=hard_weight)
    check_equal(pair, pair.fused(), pair.plain())


@pytest.mark.parametrize("hard_weight", [0.0, 0.4])
def test_divergence_over_some_entries_and_labels_over_all(hard_weight):
    pair = Pair(SOFT, HARD, temperature=1.5, hard_weight=hard_weight)
    entries = torch.tensor([7, 0, 3, 4])
    check_equal(pair, pair.fused(entries=entries), pair.plain(entries=entries))


def test_micro_batches_add_up_to_the_whole():
    pair = Pair(SOFT, HARD, temperature=2.0, hard_weight=0.5)
    whole = pair.fused()
    totals = whole.counts
    cut = [pair.fused(rows, totals) for rows in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(one.total for one in cut), whole.total)


@pytest.mark.parametrize("hard_weight", [0.0, 1.0])
def test_nothing_to_learn_is_zero_and_attached(hard_weight):
    pair = Pair(torch.zeros(3, 4), torch.zeros(3, 4), hard_weight=hard_weight)
    loss = pair.fused()
    assert loss.total.item() == 0
    assert all(float(one.abs().sum()) == 0 for one in pair.gradients(loss))


def test_positions_without_weight_may_hold_anything():
    pair = Pair(SOFT, SOFT, hard_weight=0.5)
    expected = pair.fused().total
    with torch.no_grad():
        pair.student[0, 2], pair.teacher[0, 2] = torch.nan, torch.inf
    torch.testing.assert_close(pair.fused().total, expected)


def test_bf16_student_is_compared_with_an_fp32_teacher():
    pair = Pair(temperature=2.0, hard_weight=0.5)
    exact = pair.plain()
    for name in ("student", "teacher"):
        setattr(pair, name, getattr(pair, name).detach().bfloat16())
    pair.student.requires_grad_()
    half = {"weight_VD": pair.ours.weight_VD.detach().bfloat16(), "bias_V": pair.ours.bias_V.detach().float()}
    pair.ours = dataclasses.replace(pair.ours, **half)
    pair.theirs = dataclasses.replace(pair.theirs, weight_VD=pair.theirs.weight_VD.float())
    found = pair.fused()
    assert found.total.dtype == torch.float32
    assert found.total.item() == pytest.approx(exact.total.item(), rel=0.02)


def test_it_is_an_objective_that_wants_states():
    objective = FusedHinton(ObjectiveSettings(fused=True))
    assert isinstance(objective, Objective)
    assert objective.want() == Want(headed=True)


def refusal(signal, pair, outputs=None):
    outputs = Outputs(None, headed=HeadedStates(pair.student, pair.ours)) if outputs is None else outputs
    with pytest.raises(SignalError) as caught:
        FusedHinton(pair.settings).loss(pair.batch(), signal, outputs)
    return str(caught.value)


def test_refusals_name_both_sides_and_the_next_step():
    pair = Pair()
    states = HeadedStates(pair.teacher, pair.theirs)
    assert "no teacher" in refusal(None, pair)
    assert "sent DenseLogits" in refusal(Signal(Voice("t", V), DenseLogits(pair.theirs.logits(pair.teacher))), pair)
    assert "speaks of 11" in refusal(Signal(Voice("t", 11), states), pair)
    shorter = HeadedStates(pair.teacher, pair.theirs.over(torch.arange(V - 1)))
    assert "head of 8 rows" in refusal(Signal(Voice("t", V), shorter), pair)
    moved = HeadedStates(pair.teacher[:, :3], pair.theirs)
    assert "[3, 3] and the student for [3, 4]" in refusal(Signal(Voice("t", V), moved), pair)


def test_an_objective_on_logits_refuses_states():
    pair = Pair()
    signal = Signal(Voice("t", V), HeadedStates(pair.teacher, pair.theirs))
    with pytest.raises(SignalError, match=r"set objective\.fused"):
        Hinton(ObjectiveSettings()).loss(pair.batch(), signal, Outputs(pair.ours.logits(pair.student)))
