import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from potstill.core.protocols import Objective
from potstill.core.signal import Outputs, Want
from potstill.divergences.catalogue import DIVERGENCES
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings

NAMES = pytest.mark.parametrize("divergence", DIVERGENCES)


def hinton(**settings):
    return Hinton(ObjectiveSettings(**settings))


@pytest.mark.parametrize(
    ("temperature", "value", "gradient"),
    [
        (1, 1.685124, (-0.753764, 0.130533, 0.623231)),
        (2, 2.073816, (-0.884416, 0.151944, 0.732472)),
        (4, 2.154541, (-0.906996, 0.138959, 0.768037)),
        (100, 2.115159, (-0.890343, 0.112403, 0.777940)),
    ],
)
def test_hinton_table(case, temperature, value, gradient):
    one = case(rows=1, positions=1, entries=3)
    one.student = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64)
    one.teacher = torch.tensor([[[3.0, 1.0, 0.0]]], dtype=torch.float64)
    loss, slope = one.run(hinton(temperature=temperature))
    assert loss.total.item() == pytest.approx(value, abs=1e-6)
    assert slope[0, 0].tolist() == pytest.approx(gradient, abs=1e-6)


def test_it_is_the_formula(case):
    """alpha T^2 KL + (1 - alpha) CE, the temperature on the soft part alone."""
    c = case(rows=5, positions=1)
    loss, _ = c.run(hinton(temperature=3.0, soft_weight=0.7, hard_weight=0.3))
    teacher, student = c.teacher.squeeze(1), c.student.squeeze(1)
    divergence = F.kl_div(
        (student / 3).log_softmax(-1), (teacher / 3).log_softmax(-1), reduction="batchmean", log_target=True
    )
    hard = F.cross_entropy(student, c.targets.squeeze(1))
    assert loss.total.item() == pytest.approx((0.7 * 9 * divergence + 0.3 * hard).item(), abs=1e-12)
    assert loss.parts == pytest.approx({"soft": 0.7 * 9 * divergence.item(), "hard": 0.3 * hard.item()}, abs=1e-12)
    assert loss.counts == {"soft": 5.0, "hard": 5.0}


@NAMES
def test_every_divergence_with_its_own_defaults(case, divergence):
    c, row = case(), DIVERGENCES[divergence]
    loss, gradient = c.run(hinton(divergence=divergence, temperature=2.0))
    values = row.function((c.teacher / 2).log_softmax(-1), (c.student / 2).log_softmax(-1), **row.parameters)
    assert loss.total.item() == pytest.approx(4 * values.mean().item(), abs=1e-12)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("divergence", "name"), [("skew_kl", "alpha"), ("jensen_shannon", "beta"), ("bidirectional", "lam")]
)
def test_a_parameter_of_the_recipe_is_used(case, divergence, name):
    c, function = case(), DIVERGENCES[divergence].function
    loss, _ = c.run(hinton(divergence=divergence, **{name: 0.3}))
    values = function(c.teacher.log_softmax(-1), c.student.log_softmax(-1), **{name: 0.3})
    assert loss.total.item() == pytest.approx(values.mean().item(), abs=1e-12)


def test_it_is_an_objective_and_says_what_it_wants():
    assert isinstance(hinton(), Objective)
    assert hinton().want() == Want(teacher=True)
    assert hinton(top_k=5).want() == Want(teacher=True, top_k=5)
    assert hinton(top_k=5, temperature=2.0).want() == Want(teacher=True, top_k=5, temperature=2.0)
    assert hinton(temperature=2.0).want() == Want(teacher=True), "whole logits are softened here"
    assert hinton(soft_weight=0, hard_weight=1).want() == Want(teacher=False)


def test_labels_alone_need_no_teacher(case):
    c = case()
    student = c.student.clone().requires_grad_()
    loss = hinton(soft_weight=0, hard_weight=2).loss(c.batch(), None, Outputs(student))
    expected = 2 * F.cross_entropy(c.student.flatten(0, 1), c.targets.flatten())
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-12)
    assert set(loss.parts) == set(loss.counts) == {"hard"}


def test_rows_without_a_label_do_not_dilute_the_labels(case):
    """Each part has its own denominator: the hard part is the mean over the two labelled rows, not over five."""
    c = case(rows=5, positions=1, hard=[[1], [0], [1], [0], [0]])
    loss, _ = c.run(hinton(soft_weight=1, hard_weight=1))
    labelled = F.cross_entropy(c.student[[0, 2], 0], c.targets[[0, 2], 0])
    assert loss.parts["hard"] == pytest.approx(labelled.item(), abs=1e-12)
    assert loss.counts == {"soft": 5.0, "hard": 2.0}
    alone, _ = c.run(hinton(soft_weight=1))
    assert loss.parts["soft"] == alone.parts["soft"]


def test_fractional_weights_weigh(case):
    c = case(rows=2, positions=1, soft=[[0.25], [0.75]])
    loss, _ = c.run(hinton())
    values = DIVERGENCES["forward_kl"].function(c.teacher.log_softmax(-1), c.student.log_softmax(-1))
    assert loss.total.item() == pytest.approx((0.25 * values[0, 0] + 0.75 * values[1, 0]).item(), abs=1e-12)


def test_parts_sum_to_the_total(case):
    loss, _ = case().run(hinton(soft_weight=0.4, hard_weight=1.7, temperature=2.0))
    assert sum(loss.parts.values()) == pytest.approx(loss.total.item(), abs=1e-12)


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_k": 3, "missing_mass": "renormalise"}])
@NAMES
def test_a_batch_without_any_weight_is_zero_and_attached(case, divergence, settings):
    nothing = torch.zeros(3, 4)
    loss, gradient = case(soft=nothing, hard=nothing).run(hinton(divergence=divergence, hard_weight=1, **settings))
    assert loss.total.item() == 0
    assert loss.parts == {"soft": 0.0, "hard": 0.0}
    assert torch.equal(gradient, torch.zeros_like(gradient))


@NAMES
@pytest.mark.parametrize("cuts", [(2,), (1, 2, 3, 4), (3, 4)])
def test_accumulation_changes_nothing(case, divergence, cuts):
    """Micro-batches of unlike weight, divided by the step's totals, add up to the whole batch: loss and gradient."""
    generator = torch.Generator().manual_seed(3)
    soft, hard = (torch.randint(0, 2, (5, 4), generator=generator) for _ in range(2))
    soft[4] = 0
    c = case(rows=5, soft=soft, hard=hard)
    objective = hinton(divergence=divergence, temperature=2.0, soft_weight=0.6, hard_weight=0.4)
    whole, gradient = c.run(objective)
    borders = (0, *cuts, 5)
    pieces = [
        c.run(objective, rows=slice(start, end), totals=objective.counts(c.batch())) for start, end in pairwise(borders)
    ]
    assert sum(loss.total.item() for loss, _ in pieces) == pytest.approx(whole.total.item(), abs=1e-12)
    for part in ("soft", "hard"):
        assert sum(loss.parts[part] for loss, _ in pieces) == pytest.approx(whole.parts[part], abs=1e-12)
    torch.testing.assert_close(torch.cat([slope for _, slope in pieces]), gradient, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("rubbish", [0.0, 1e30, math.nan, math.inf])
def test_padding_changes_no_bit(case, rubbish):
    """Whatever stands at positions without weight, NaN included, reaches neither loss nor gradient."""
    objective = hinton(temperature=2.0, hard_weight=0.5)
    short, long = case(), case()
    loss, gradient = short.run(objective)
    pad = torch.full((3, 2, 7), rubbish, dtype=torch.float64)
    long.teacher, long.student = torch.cat([short.teacher, pad], 1), torch.cat([short.student, pad], 1)
    long.targets = torch.cat([short.targets, torch.zeros(3, 2).long()], 1)
    long.soft = long.hard = torch.cat([short.soft, torch.zeros(3, 2)], 1)
    padded, slope = long.run(objective)
    assert torch.equal(padded.total, loss.total)
    assert torch.equal(slope[:, :4], gradient)
    assert torch.equal(slope[:, 4:], torch.zeros(3, 2, 7, dtype=torch.float64))


def test_a_nan_that_counts_is_not_hidden(case):
    c = case()
    c.student[1, 2, 3] = math.nan
    assert math.isnan(c.run(hinton())[0].total.item())


@NAMES
@pytest.mark.parametrize("rule", ["tail", "renormalise"])
def test_top_k_of_everything_is_dense(case, divergence, rule):
    c = case()
    loss, gradient = c.run(hinton(divergence=divergence, temperature=2.0))
    settings = {"divergence": divergence, "temperature": 2.0, "missing_mass": rule}
    for objective, signal in (
        (hinton(**settings, top_k=7), c.dense()),
        (hinton(**settings, top_k=7), c.sparse(7, 2.0)),
        (hinton(**settings), c.sparse(7, 2.0)),
    ):
        same, slope = c.run(objective, signal)
        assert same.total.item() == pytest.approx(loss.total.item(), abs=1e-12)
        torch.testing.assert_close(slope, gradient, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("rule", ["tail", "renormalise"])
def test_cutting_here_equals_having_been_cut_there(case, rule):
    c = case(soft=[[1, 0, 1, 1], [0, 0, 1, 1], [1, 1, 1, 0]])
    objective = hinton(top_k=3, temperature=2.0, missing_mass=rule)
    here, slope = c.run(objective, c.dense())
    there, other = c.run(objective, c.sparse(3, 2.0))
    assert torch.equal(here.total, there.total)
    assert torch.equal(slope, other)
    assert here.total.item() != pytest.approx(c.run(hinton(temperature=2.0))[0].total.item(), rel=1e-3)


def test_the_teacher_gets_no_gradient(case):
    c = case()
    c.teacher.requires_grad_()
    c.run(hinton())
    c.run(hinton(top_k=2))
    assert c.teacher.grad is None


def test_bf16_logits_cost_no_more_than_their_own_rounding(case):
    """Against fp64 on the same bf16 logits; the naive way keeps softmax and sum in bf16."""
    c = case(rows=2, positions=8, entries=4000)
    teacher = c.teacher.bfloat16()
    student = (teacher + 0.3 * c.student).bfloat16()
    c.teacher, c.student = teacher.double(), student.double()
    exact = c.run(hinton(temperature=2.0))[0].total.item()
    naive = (
        4
        * F.kl_div((student / 2).log_softmax(-1), (teacher / 2).log_softmax(-1), reduction="none", log_target=True)
        .sum(-1)
        .mean()
    )
    c.teacher, c.student = teacher, student
    loss, gradient = c.run(hinton(temperature=2.0))
    assert loss.total.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert loss.total.item() == pytest.approx(exact, rel=1e-5)
    assert abs(loss.total.item() - exact) < abs(naive.item() - exact)


@pytest.fixture(scope="module")
def liger():
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    return LigerFusedLinearJSDLoss


def through_liger(liger, c, chunk_size, **settings):
    """Liger takes hidden states and heads; an identity head makes its logits ours."""
    identity = torch.eye(7)
    student = c.student.float().flatten(0, 1).requires_grad_()
    teacher = c.teacher.float().flatten(0, 1)
    target = c.targets.masked_fill(c.hard == 0, -100).flatten()
    loss = liger(compiled=False, chunk_size=chunk_size, **settings)(student, identity, teacher, identity, target)
    loss.backward()
    return loss.item(), student.grad.reshape(c.student.shape)


@pytest.mark.parametrize("chunk_size", [3, 1024])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_liger_agrees_at_temperature_one(case, liger, beta, chunk_size):
    mask = [[1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]]
    c = case(soft=mask, hard=mask)
    value, slope = through_liger(liger, c, chunk_size, beta=beta, weight_hard_loss=0.4, weight_soft_loss=0.6)
    loss, gradient = c.run(hinton(divergence="jensen_shannon", beta=beta, soft_weight=0.6, hard_weight=0.4))
    assert loss.total.item() == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(gradient.float(), slope, atol=1e-6, rtol=1e-5)


def test_liger_leaves_out_the_square_of_the_temperature(case, liger):
    c = case()
    value, _ = through_liger(liger, c, 1024, beta=0.5, temperature=3.0, weight_hard_loss=0, weight_soft_loss=1)
    loss, _ = c.run(hinton(divergence="jensen_shannon", temperature=3.0))
    assert loss.total.item() == pytest.approx(9 * value, rel=1e-5)


def test_liger_pads_a_narrow_student_with_zeros_which_are_probable(case, liger):
    """Its padding gets real probability, so a student that agrees with the teacher on all it knows is still taught.
    Here another vocabulary is refused (test_fit.py)."""
    c = case(rows=1, positions=1, entries=2)
    hidden = torch.tensor([[-5.0, -6.0]])
    teacher_head = torch.cat([torch.eye(2), torch.full((1, 2), 10.0)])
    loss = liger(compiled=False, beta=0.0, weight_hard_loss=0, weight_soft_loss=1)(
        hidden, torch.eye(2), hidden, teacher_head, c.targets.flatten()
    )
    assert loss.item() > 4
