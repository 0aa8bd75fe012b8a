import numpy as np
import pytest
import torch

from potstill.core.errors import NumbersError
from potstill.data.difficulty.score import SMALLEST_LOSS, difficulty, row_losses


def test_it_is_the_student_over_the_teacher():
    """Not the other way round: the row the teacher knows and the student does not is the hard one."""
    found = difficulty(np.array([2.0, 1.0, 3.0]), np.array([0.5, 2.0, 3.0]))
    assert found.tolist() == [4.0, 0.5, 1.0]


def test_a_sure_teacher_counts_as_a_ten_thousandth_of_a_nat():
    """A loss of zero, in which the ratio would blow up: finite, and ranked by what the student loses."""
    student, teacher = np.array([0.0, 1e-3, 1.0, 1.0]), np.array([0.0, 0.0, 0.0, SMALLEST_LOSS / 2])
    assert difficulty(student, teacher) == pytest.approx([0.0, 10.0, 1e4, 1e4])
    assert difficulty(np.array([1.0]), np.array([SMALLEST_LOSS * 2])) == pytest.approx([5e3])


@pytest.mark.parametrize("broken", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_loss_that_is_none_is_refused_with_its_row(who, broken):
    losses = {"student": np.ones(3), "teacher": np.ones(3)}
    losses[who][1] = broken
    with pytest.raises(NumbersError, match=f"row 1: the {who}'s loss"):
        difficulty(losses["student"], losses["teacher"])


def test_losses_of_rows_are_means_over_what_counts():
    """Against a slow loop in float64; the prompt, whose weight is 0, may hold anything."""
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 5, 7), torch.randint(0, 7, (4, 5))
    weights = (torch.rand(4, 5) > 0.4).float()
    weights[3] = 0
    weights[0] = 1
    logits[1, weights[1] == 0] = torch.nan
    found = row_losses(logits, targets, weights)
    for row in range(3):
        kept = [t for t in range(5) if weights[row, t]]
        slow = [
            -float(torch.log(logits[row, t].double().exp()[targets[row, t]] / logits[row, t].double().exp().sum()))
            for t in kept
        ]
        assert found[row].item() == pytest.approx(sum(slow) / len(slow), rel=1e-12)
    assert found[3].isnan()


def test_small_losses_are_not_rounded_to_zero():
    """In float32 the loss of a logit gap of 20 is 0; here it is what it is."""
    loss = row_losses(torch.tensor([[[20.0, 0.0]]]), torch.tensor([[0]]), torch.ones(1, 1))
    assert loss.item() == pytest.approx(2.0612e-9, rel=1e-3)
