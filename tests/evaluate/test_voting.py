"""The majority of answers, by hand, and against what chance says of it."""

from math import comb

import numpy as np
import pytest

from potstill.data.verify.numerals import only_number, same_number
from potstill.evaluate.voting import Vote, majority


@pytest.mark.parametrize(
    ("answers", "vote"),
    [
        (["4", "5", "4"], Vote(0, 2, 3, False)),
        (["5", "4", "4"], Vote(1, 2, 3, False)),
        (["4", "5"], Vote(0, 1, 2, True)),
        (["5", "4", "4", "5"], Vote(0, 2, 4, True)),
        (["4", None, None], Vote(0, 1, 1, False)),
        ([None, None, "6", "6", "4"], Vote(2, 2, 3, False)),
        ([None], Vote(None, 0, 0, False)),
        ([], Vote(None, 0, 0, False)),
    ],
)
def test_by_hand(answers, vote):
    assert majority(answers) == vote


def test_answers_that_are_the_same_number_vote_together():
    answers = [only_number(text) for text in ("3", "1/2", "0.5", "50%", "3")]
    assert majority(answers, same_number) == Vote(1, 3, 5, False)


def test_the_majority_of_two_answers_is_right_as_often_as_the_binomial_says():
    """Five voters, each right with 0.6: P = sum over k >= 3 of C(5, k) 0.6^k 0.4^(5-k) = 0.68256."""
    expected = sum(comb(5, k) * 0.6**k * 0.4 ** (5 - k) for k in (3, 4, 5))
    assert expected == pytest.approx(0.68256)
    right = np.random.default_rng(0).random((4000, 5)) < 0.6
    won = [bool(row[majority(row.tolist()).winner]) for row in right]
    assert abs(np.mean(won) - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)
