import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Objective
from potstill.core.signal import DenseLogits, HeadedStates, OutputHead, Outputs, Signal, Voice, Want
from potstill.divergences.catalogue import DIVERGENCES
from potstill.objectives import blockwise, projection
from potstill.objectives.projection import DualSpace, Projections, matching
from potstill.objectives.settings import ObjectiveSettings

S, D, V = 4, 6, 9


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(width, entries=V, seed=0, **more):
    return OutputHead(random(entries, width, seed=seed), **more)


class Two:
    """Student and teacher of different widths on three rows of four positions, in double precision."""

    def __init__(self, soft=None, hard=None, **settings):
        self.ours = head(S, seed=1, bias_V=random(V, seed=5))
        self.theirs = head(D, seed=2, scale=0.5, softcap=4.0)
        self.ours_weight = self.ours.weight_VD.requires_grad_()
        self.student, self.teacher = random(3, 4, S, seed=3).requires_grad_(), random(3, 4, D, seed=4)
        self.settings = ObjectiveSettings(projection={}, **settings)
        self.objective = DualSpace(self.settings, Projections(self.ours, self.theirs).double())
        ones = torch.ones(3, 4)
        self.soft = ones if soft is None else torch.as_tensor(soft).float()
        self.hard = ones if hard is None else torch.as_tensor(hard).float()
        self.targets = torch.randint(0, V, (3, 4), generator=torch.Generator().manual_seed(7))

    def batch(self, rows=slice(None)):
        targets = self.targets[rows]
        weights = {"soft": self.soft[rows], "hard": self.hard[rows]}
        return Batch(tuple(map(str, range(len(targets)))), targets, torch.ones_like(targets).bool(), targets, weights)

    def loss(self, rows=slice(None), totals=None):
        signal = Signal(Voice("t", V), HeadedStates(self.teacher[rows], self.theirs))
        outputs = Outputs(None, headed=HeadedStates(self.student[rows], self.ours))
        return self.objective.loss(self.batch(rows), signal, outputs, totals)

    @property
    def learning(self):
        own = self.objective.projections
        return [self.student, self.ours_weight, own.teacher_to_student, own.student_to_teacher]

    def gradients(self, value):
        found = torch.autograd.grad(value, self.learning, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(one) if grad is None else grad for one, grad in zip(self.learning, found, strict=True)]


def oracle(two, divergence, temperature):
    """The three parts as written in the papers, over whole logits."""
    row = DIVERGENCES[divergence]
    own = two.objective.projections
    cap = two.theirs.softcap

    def theirs(states):
        return cap * torch.tanh(two.theirs.scale * (states @ two.theirs.weight_VD.T) / cap)

    ours, bias = two.ours_weight, two.ours.bias_V
    teacher = theirs(two.teacher)
    seen = (two.teacher @ own.teacher_to_student) @ ours.detach().T + bias
    choice = teacher.argmax(-1)

    def mean(target, logits, mask=1.0):
        pair = (target / temperature).log_softmax(-1), (logits / temperature).log_softmax(-1)
        return temperature**2 * (row.function(*pair, **row.parameters) * mask).mean()

    return {
        "projector": F.cross_entropy(seen.flatten(0, 1), choice.flatten()),
        "projected": mean(seen.detach(), two.student @ ours.T + bias, (seen.argmax(-1) == choice).double()),
        "teacher_space": mean(teacher, theirs(two.student @ own.student_to_teacher)),
        "hard": F.cross_entropy((two.student @ ours.T + bias).flatten(0, 1), two.targets.flatten()),
    }


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_it_is_the_formula(divergence):
    two = Two(divergence=divergence, temperature=2.0, soft_weight=0.7, hard_weight=0.3)
    expected = oracle(two, divergence, 2.0)
    weights = {name: 0.3 if name == "hard" else 0.7 for name in expected}
    loss = two.loss()
    assert loss.parts == pytest.approx(
        {name: weights[name] * value.item() for name, value in expected.items()}, abs=1e-12
    )
    assert loss.counts == {"soft": 12.0, "hard": 12.0}
    total = sum(weights[name] * value for name, value in expected.items())
    for found, wanted in zip(two.gradients(loss.total), two.gradients(total), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_each_part_teaches_whom_it_says():
    """In order: the student's states, its head, teacher_to_student, student_to_teacher."""
    two = Two()
    expected = oracle(two, "forward_kl", 1.0)
    assert expected["projected"] > 0, "somewhere they agree"
    taught = {
        "projector": [False, False, True, False],
        "projected": [True, True, False, False],
        "teacher_space": [True, False, False, True],
    }
    for name, who in taught.items():
        two_again = Two()
        weights = dict.fromkeys(projection.PARTS, 0.0) | {name: 1.0}
        parts = two_again.objective._soft(
            two_again.soft,
            HeadedStates(two_again.teacher, two_again.theirs),
            HeadedStates(two_again.student, two_again.ours),
            Signal(Voice("t", V)),
            12.0,
        )
        value = sum(weights[part] * parts[part] for part in parts)
        assert [bool(grad.abs().max() > 0) for grad in two_again.gradients(value)] == who, name


def test_the_start_is_the_pseudo_inverse():
    source, target = head(S, seed=1, scale=2.0), head(D, seed=2, scale=0.5)
    expected = (2.0 * source.weight_VD).T @ torch.linalg.pinv((0.5 * target.weight_VD).T)
    torch.testing.assert_close(matching(source, target).double(), expected, rtol=1e-5, atol=1e-6)


def test_projected_logits_match_at_the_start_where_they_can():
    """As many columns as entries: the target's head reaches every vector of logits."""
    source, target, states = head(4, entries=6, seed=1), head(7, entries=6, seed=2), random(10, 4, seed=3)
    there = target.logits(states @ matching(source, target).double())
    torch.testing.assert_close(there, source.logits(states), rtol=1e-5, atol=1e-5)


def test_a_teacher_inside_the_students_space_is_matched_exactly_in_a_narrower_one():
    """Fewer columns than entries, but the source's logits lie in the span of the target's."""
    target = head(4, seed=2)
    source = OutputHead(target.weight_VD @ random(4, 3, seed=6))
    states = random(10, 3, seed=3)
    there = target.logits(states @ matching(source, target).double())
    torch.testing.assert_close(there, source.logits(states), rtol=1e-5, atol=1e-5)


def test_one_model_as_its_own_teacher_has_nothing_to_learn():
    two = Two()
    two.theirs, two.teacher = two.ours, two.student.detach().clone()
    two.objective = DualSpace(two.settings, Projections(two.ours, two.ours).double())
    loss = two.loss()
    assert loss.parts["projected"] == pytest.approx(0, abs=1e-9)
    assert loss.parts["teacher_space"] == pytest.approx(0, abs=1e-9)
    assert loss.parts["projector"] > 0, "a cross-entropy, bounded below by the entropy of a choice"


def test_where_the_projected_teacher_disagrees_it_does_not_teach():
    two = Two()
    with torch.no_grad():
        two.objective.projections.teacher_to_student.zero_()
        two.ours.bias_V.fill_(0)
        two.ours.bias_V[8] = 100  # the projected teacher always says 8
        two.theirs = dataclasses.replace(two.theirs, bias_V=torch.zeros(V, dtype=torch.float64))
        two.theirs.bias_V[3] = 100  # the teacher always says 3
    assert two.loss().parts["projected"] == 0


@pytest.mark.parametrize("cuts", [[slice(0, 1), slice(1, 3)], [slice(0, 1), slice(1, 2), slice(2, 3)]])
def test_accumulation_changes_nothing(cuts):
    soft = [[1, 1, 0, 0.5], [0, 1, 1, 1], [1, 0, 0, 0]]
    hard = [[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
    two = Two(soft=soft, hard=hard, hard_weight=0.5)
    whole = two.gradients(two.loss().total)
    totals = {"soft": float(two.soft.sum()), "hard": float(two.hard.sum())}
    pieces = [two.gradients(two.loss(rows, totals).total) for rows in cuts]
    for expected, *parts in zip(whole, *pieces, strict=True):
        torch.testing.assert_close(sum(parts), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("positions", [1, 5, 11])
def test_blocks_change_nothing(monkeypatch, positions):
    two = Two(soft=[[1, 1, 0, 0.5], [0, 1, 1, 1], [1, 1, 1, 1]], hard_weight=0.5)
    whole = two.loss()
    expected = two.gradients(whole.total)
    monkeypatch.setattr(blockwise, "BLOCK", positions * V)
    blocks = two.loss()
    assert blocks.parts == pytest.approx(whole.parts, abs=1e-12)
    for one, other in zip(two.gradients(blocks.total), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_untaught_positions_may_hold_anything():
    two = Two(soft=[[0, 1, 1, 1]] * 3, hard=[[0, 1, 1, 1]] * 3, hard_weight=1)
    expected = two.loss()
    with torch.no_grad():
        two.student[:, 0] = math.nan
    two.teacher[:, 0] = math.nan
    assert two.loss().parts == expected.parts
    assert all(torch.isfinite(grad).all() for grad in two.gradients(two.loss().total))


def test_a_batch_without_any_weight_is_zero_and_attached():
    nothing = torch.zeros(3, 4)
    two = Two(soft=nothing, hard=nothing, hard_weight=1)
    loss = two.loss()
    assert loss.total.item() == 0
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in two.gradients(loss.total))


def test_padding_of_the_student_stays_out_of_the_soft_parts_alone():
    """The teacher has the first 9 of 11 rows: soft parts are over 9, the labels over 11."""
    two = Two(hard_weight=1)
    expected = two.loss()
    wide = OutputHead(torch.cat([two.ours.weight_VD, random(2, S, seed=8)]), torch.cat([two.ours.bias_V, random(2)]))
    signal = Signal(Voice("t", 11), HeadedStates(two.teacher, two.theirs), entries_K=torch.arange(V))
    loss = two.objective.loss(two.batch(), signal, Outputs(None, headed=HeadedStates(two.student, wide)))
    for name in projection.PARTS:
        assert loss.parts[name] == pytest.approx(expected.parts[name], abs=1e-12)
    assert loss.parts["hard"] > expected.parts["hard"]


def test_it_is_an_objective_and_wants_states():
    assert isinstance(Two().objective, Objective)
    assert Two().objective.want() == Want(headed=True)


def test_what_does_not_fit_is_refused():
    two = Two()
    dense = Signal(Voice("t", V), DenseLogits(random(3, 4, V)))
    outputs = Outputs(None, headed=HeadedStates(two.student, two.ours))
    with pytest.raises(SignalError, match="teacher t sent DenseLogits"):
        two.objective.loss(two.batch(), dense, outputs)
    with pytest.raises(SignalError, match="no teacher"):
        two.objective.loss(two.batch(), None, outputs)
    other = Signal(Voice("t", V), HeadedStates(random(3, 4, 5), head(5)))
    with pytest.raises(SignalError, match=r"widths \(4, 5\), and the projections are for \(4, 6\)"):
        two.objective.loss(two.batch(), other, outputs)
    short = Signal(Voice("t", V), HeadedStates(two.teacher[:, :3], two.theirs))
    with pytest.raises(SignalError, match="both must read the same batch"):
        two.objective.loss(two.batch(), short, outputs)
    with pytest.raises(SignalError, match="student's head has 9 rows and the teacher's 10"):
        Projections(two.ours, head(D, entries=10))


def test_projection_and_top_k_contradict():
    with pytest.raises(ValueError, match="top_k cuts its logits"):
        ObjectiveSettings(projection={}, top_k=3)
