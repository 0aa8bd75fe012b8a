"""Teacher, tutor or label, example by example: the truth table, the values, and what forced choices are equal to."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from potstill.core.errors import SignalError
from potstill.core.protocols import Objective
from potstill.core.signal import DenseLogits, Outputs, Want
from potstill.objectives.chosen import LABEL, SOURCES, TEACHER, TUTOR, Chosen, closer_sources
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import ObjectiveSettings

# Likeliest entry 0, 1 or 2; the second number is how sure.
SURE = {0: (4.0, 0.0, 0.0), 1: (0.0, 4.0, 0.0), 2: (0.0, 0.0, 4.0)}
HALF = {0: (1.0, 0.0, 0.0), 1: (0.0, 1.0, 0.0)}


def chosen(teacher, tutor, student=HALF[0], truth=0, known=True, temperature=1.0):
    rows = [torch.tensor([one]) for one in (teacher, tutor, student)]
    found = closer_sources(*rows, torch.tensor([truth]), torch.tensor([known]), temperature=temperature)
    return SOURCES[int(found)]


@pytest.mark.parametrize(
    ("teacher", "tutor", "expected"),
    [
        (SURE[0], SURE[1], "teacher"),
        (SURE[1], SURE[0], "tutor"),
        (SURE[1], SURE[2], "label"),
        (SURE[1], SURE[1], "label"),
        (SURE[0], HALF[0], "tutor"),
        (HALF[0], SURE[0], "teacher"),
        (SURE[0], SURE[0], "teacher"),
        # The one that is right and far, not the one that is wrong and near.
        (SURE[0], (1.0, 1.1, 0.0), "teacher"),
    ],
    ids=["T right", "U right", "neither", "neither, alike", "both, U closer", "both, T closer", "both, alike", "far"],
)
def test_the_truth_table(teacher, tutor, expected):
    """The student leans to entry 0, which is the truth."""
    assert chosen(teacher, tutor) == expected


def test_closer_is_by_kl_from_the_source_to_the_student():
    """Worked by hand, two classes as logits (x, 0): KL(T||S) = 0.1848 and KL(U||S) = 0.1200; the other way round,
    0.1541 and 0.2259, the teacher would be the nearer one."""
    teacher, tutor, student = ((torch.tensor(p).logit().item(), 0.0) for p in (0.57, 0.98, 0.83))

    def kl(p, q):
        p, q = torch.tensor([p, 1 - p]), torch.tensor([q, 1 - q])
        return float((p * (p / q).log()).sum())

    assert (kl(0.57, 0.83), kl(0.98, 0.83)) == pytest.approx((0.1848, 0.1200), abs=1e-4)
    assert (kl(0.83, 0.57), kl(0.83, 0.98)) == pytest.approx((0.1541, 0.2259), abs=1e-4)
    assert chosen(teacher, tutor, student) == "tutor"


def test_at_another_temperature_another_one_may_be_closer():
    teacher, tutor, student = (-1.0, -4.0, -2.0), (6.0, -4.0, 2.0), (3.0, -1.0, 0.0)
    assert chosen(teacher, tutor, student, temperature=1.0) == "tutor"
    assert chosen(teacher, tutor, student, temperature=20.0) == "teacher"


def test_without_a_label_the_teachers_first_choice_is_the_truth():
    assert chosen(SURE[1], SURE[1], known=False) == "teacher"
    assert chosen(SURE[1], SURE[2], known=False) == "teacher", "the tutor is wrong there"
    assert chosen(SURE[1], HALF[1], known=False) == "tutor"


def sides(c, teacher=None, tutor=None):
    """The case's signal with a tutor beside it."""
    generator = torch.Generator().manual_seed(9)
    tutor = 2 * torch.randn(c.teacher.shape, generator=generator, dtype=torch.float64) if tutor is None else tutor
    return dataclasses.replace(
        c.signal(DenseLogits(c.teacher if teacher is None else teacher)), tutor=DenseLogits(tutor)
    )


def made(choose="closer", **settings):
    return Chosen(ObjectiveSettings(**settings), choose)


def oracle(c, signal, temperature, soft, hard):
    """Row by row in double precision, plain sums."""
    total, picks = 0.0, []
    teacher, tutor = signal.logits.logits_BTV, signal.tutor.logits_BTV
    weighed = [(b, t) for b in range(len(c.soft)) for t in range(c.soft.shape[1]) if c.soft[b, t]]
    for b, t in weighed:
        truth = int(c.targets[b, t]) if c.hard[b, t] else int(teacher[b, t].argmax())
        student = (c.student[b, t] / temperature).log_softmax(-1)
        found = []
        for name, side in (("teacher", teacher), ("tutor", tutor)):
            p = (side[b, t] / temperature).log_softmax(-1)
            if int(p.argmax()) == truth:
                found.append((float((p.exp() * (p - student)).sum()), name))
        value, name = min(found, key=lambda one: one[0], default=(None, "label"))
        picks.append(name)
        label = -float(c.student[b, t].log_softmax(-1)[c.targets[b, t]])
        total += soft * (label if value is None else temperature**2 * value) / len(weighed)
    known = [(b, t) for b in range(len(c.hard)) for t in range(c.hard.shape[1]) if c.hard[b, t]]
    for b, t in known:
        total -= hard * float(c.student[b, t].log_softmax(-1)[c.targets[b, t]]) / len(known)
    return total, {name: picks.count(name) / len(picks) for name in SOURCES}


@pytest.mark.parametrize("positions", [1, 4])
def test_it_is_the_formula(case, positions):
    """With rows that nobody labelled and positions that do not count."""
    rows = 40
    draw = torch.Generator().manual_seed(3)
    soft = (torch.rand(rows, positions, generator=draw) < 0.8).float()
    hard = (torch.rand(rows, positions, generator=draw) < 0.7).float()
    c = case(rows=rows, positions=positions, entries=3, soft=soft, hard=hard)
    signal = sides(c)
    loss, _ = c.run(made(temperature=2.0, soft_weight=0.7, hard_weight=0.3), signal)
    total, shares = oracle(c, signal, 2.0, 0.7, 0.3)
    assert loss.total.item() == pytest.approx(total, abs=1e-6)
    assert loss.shares == pytest.approx(shares, abs=1e-6)
    assert min(shares.values()) > 0.05, "every source is in play"
    assert sum(loss.shares.values()) == pytest.approx(1.0, abs=1e-6)
    assert sum(loss.parts.values()) == pytest.approx(loss.total.item(), abs=1e-6)


@pytest.mark.parametrize(("choose", "side"), [("teacher", "logits"), ("tutor", "tutor")])
def test_one_source_for_all_is_hinton_with_it_alone(case, choose, side):
    c = case(rows=6, positions=3)
    signal = sides(c)
    settings = {"temperature": 2.0, "soft_weight": 0.6, "hard_weight": 0.4, "divergence": "skew_kl"}
    loss, gradient = c.run(made(choose, **settings), signal)
    alone = c.signal(getattr(signal, side))
    expected, slope = c.run(Hinton(ObjectiveSettings(**settings)), alone)
    assert torch.equal(loss.total, expected.total)
    assert torch.equal(gradient, slope)
    assert loss.parts == expected.parts
    assert loss.shares == {name: float(name == choose) for name in SOURCES}


def test_the_label_for_all_is_the_cross_entropy(case):
    c = case(rows=6, positions=1)
    loss, gradient = c.run(made("label", temperature=3.0), sides(c))
    expected, slope = c.run(Hinton(ObjectiveSettings(soft_weight=0, hard_weight=1)))
    assert loss.total.item() == pytest.approx(expected.total.item(), abs=1e-12)
    torch.testing.assert_close(gradient, slope)
    assert loss.shares == {"teacher": 0.0, "tutor": 0.0, "label": 1.0}


def test_no_gradient_reaches_teacher_or_tutor(case):
    c = case(rows=8, positions=1, entries=3)
    teacher, tutor = c.teacher.clone().requires_grad_(), sides(c).tutor.logits_BTV.clone().requires_grad_()
    for choose in ("closer", "teacher", "tutor", "label"):
        _, gradient = c.run(made(choose), sides(c, teacher, tutor))
        assert gradient.abs().max() > 0
        assert (teacher.grad, tutor.grad) == (None, None)


def test_accumulation_changes_nothing(case):
    """A batch cut in two, with the totals of the whole: the same loss, gradient and shares."""
    soft = torch.ones(10, 3)
    soft[1, 2] = soft[7] = 0
    c = case(rows=10, positions=3, entries=3, soft=soft)
    objective, signal = made(temperature=2.0, hard_weight=0.5), sides(c)
    whole, gradient = c.run(objective, signal)
    totals = objective.counts(c.batch())
    losses, slopes, shares = 0.0, [], dict.fromkeys(SOURCES, 0.0)
    for rows in (slice(0, 3), slice(3, 8), slice(8, 10)):
        part = dataclasses.replace(c.dense(rows), tutor=DenseLogits(signal.tutor.logits_BTV[rows]))
        loss, slope = c.run(objective, part, rows=rows, totals=totals)
        losses += loss.total.item()
        slopes.append(slope)
        shares = {name: shares[name] + value for name, value in loss.shares.items()}
    assert losses == pytest.approx(whole.total.item(), abs=1e-6)
    torch.testing.assert_close(torch.cat(slopes), gradient)
    assert shares == pytest.approx(whole.shares, abs=1e-6)


def test_padding_may_hold_anything(case):
    soft = torch.ones(4, 3)
    soft[:, 2] = 0
    c = case(rows=4, positions=3, soft=soft, hard=soft)
    signal = sides(c)
    expected, _ = c.run(made(), signal)
    spoilt = [one.clone() for one in (c.teacher, signal.tutor.logits_BTV)]
    for one in spoilt:
        one[:, 2] = torch.nan
    loss, gradient = c.run(made(), sides(c, *spoilt))
    assert loss.total.item() == expected.total.item()
    assert bool(torch.isfinite(gradient).all())


def test_a_batch_in_which_nothing_counts_gives_zero(case):
    c = case(rows=2, soft=torch.zeros(2, 4), hard=torch.zeros(2, 4))
    loss, gradient = c.run(made(), sides(c), totals={"soft": 5.0})
    assert loss.total.item() == 0
    assert gradient.abs().max() == 0
    assert loss.shares == dict.fromkeys(SOURCES, 0.0)


def test_what_it_cannot_use_is_refused(case):
    c = case(rows=2, positions=1)
    with pytest.raises(SignalError, match=r"DenseLogits and None.*two teacher.models"):
        c.run(made())
    with pytest.raises(SignalError, match="speak as the student does"):
        c.run(made(), sides(c, tutor=torch.zeros(2, 1, 3, dtype=torch.float64)))
    bare = case(rows=2, positions=1, hard=[[1.0], [0.0]])
    with pytest.raises(SignalError, match=r"`label`, and some rows have none: set use: labelled"):
        bare.run(made("label"), sides(bare))


def test_it_is_an_objective_and_asks_for_whole_logits():
    assert isinstance(made(), Objective)
    assert made().want() == Want()
    assert (TEACHER, TUTOR, LABEL) == (0, 1, 2)


def test_the_cross_entropy_of_a_label_row_is_that_of_torch(case):
    """Neither is right: soft_weight * CE, without T^2."""
    c = case(rows=1, positions=1, entries=3)
    c.targets = torch.tensor([[0]])
    wrong = torch.tensor([[[0.0, 4.0, 0.0]]], dtype=torch.float64)
    loss = made(temperature=3.0, soft_weight=0.5).loss(c.batch(), sides(c, wrong, wrong), Outputs(c.student))
    expected = 0.5 * F.cross_entropy(c.student[0], c.targets[0])
    assert loss.total.item() == pytest.approx(expected.item(), abs=1e-12)
    assert loss.parts == pytest.approx({"soft": 0.0, "label": expected.item()}, abs=1e-12)
