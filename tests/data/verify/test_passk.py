"""pass@k by its known answer, and against all draws of a small set."""

from itertools import combinations

import pytest

from potstill.data.verify.passk import pass_at_k


def test_known_answers():
    assert pass_at_k(64, 16, 1) == 0.25
    assert pass_at_k(10, 0, 5) == 0
    assert pass_at_k(10, 10, 1) == pass_at_k(10, 6, 5) == 1


@pytest.mark.parametrize("right", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_it_is_the_share_of_all_draws_with_a_right_answer(right, k):
    draws = list(combinations([True] * right + [False] * (6 - right), k))
    assert pass_at_k(6, right, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


@pytest.mark.parametrize(("samples", "right", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1)])
def test_what_cannot_be_is_refused(samples, right, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(samples, right, k)
