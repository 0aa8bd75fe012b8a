import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.data.difficulty.score import difficulty
from potstill.data.difficulty.strata import drawn


@given(st.integers(1, 80), st.data(), st.sampled_from([0.0, 0.1, 0.5, 0.99]))
def test_as_many_as_asked_for_without_repetition_and_by_strata(number, data, tau):
    kept = data.draw(st.integers(1, number))
    scores = np.random.default_rng(number).random(number)
    found = drawn(scores, kept, tau, (3, 1))
    assert len(set(found.tolist())) == len(found) == kept
    easy = set(np.argsort(-scores)[kept:].tolist())
    assert len(easy & set(found.tolist())) == min(round(tau * kept), number - kept)


def test_a_tenth_comes_from_the_easy_part():
    scores = np.arange(1000.0)
    found = drawn(scores, 500, 0.1, (0, 1))
    assert (found < 500).sum() == 50
    assert (found >= 500).sum() == 450


def test_an_easy_part_that_is_too_small_gives_all_and_the_hard_one_the_rest():
    found = drawn(np.arange(100.0), 98, 0.1, (0, 1))
    assert len(found) == 98
    assert {0, 1} <= set(found.tolist())


def test_the_draw_is_pure_and_another_in_another_pass():
    scores = np.random.default_rng(0).random(200)
    one = drawn(scores, 100, 0.1, (0, 1))
    assert one.tolist() == drawn(scores, 100, 0.1, (0, 1)).tolist()
    assert one.tolist() != drawn(scores, 100, 0.1, (0, 2)).tolist()
    assert one.tolist() != drawn(scores, 100, 0.1, (1, 1)).tolist()


def test_each_row_of_a_part_is_as_likely_as_any_other():
    counts = np.zeros(20)
    for seed in range(2000):
        counts[drawn(np.arange(20.0)[::-1].copy(), 10, 0.5, (seed, 1))] += 1
    assert counts[:10] == pytest.approx(np.full(10, 1000), abs=120)
    assert counts[10:] == pytest.approx(np.full(10, 1000), abs=120)


def test_what_the_student_lacks_is_found_and_wrong_labels_are_not():
    """A fifth the teacher knows and the student does not, a fifth on which both fail, and the rest, which both know:
    at least 95 % of the first are among the hard ones, and the second are not enriched."""
    draw = np.random.default_rng(0)
    number = 5000
    teacher, student = draw.uniform(0.1, 0.4, number), draw.uniform(0.1, 0.4, number)
    planted, wrong = slice(0, number // 5), slice(number // 5, 2 * number // 5)
    student[planted] = draw.uniform(2, 4, number // 5)
    teacher[wrong], student[wrong] = draw.uniform(3, 5, number // 5), draw.uniform(3, 5, number // 5)
    hard = set(np.argsort(-difficulty(student, teacher), kind="stable")[: round(0.4 * number)].tolist())
    rows = np.arange(number)
    assert len(hard & set(rows[planted].tolist())) >= 0.95 * number / 5
    assert len(hard & set(rows[wrong].tolist())) <= 0.4 * number / 5
