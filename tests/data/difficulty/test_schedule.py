import math

import pytest

from potstill.data.difficulty.schedule import batches, budget, rows_kept, scoring, share


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_ten_passes_cost_five_and_a_half(schedule):
    """The budget identity, and with it the published count: 1,963 of 3,570 iterations, passes counted from 0."""
    assert budget(schedule, 10) == pytest.approx(5.5, abs=1e-12)
    assert 3570 / 10 * budget(schedule, 10) == pytest.approx(1963.5, abs=1e-9)
    assert budget(schedule, 10) != pytest.approx(sum(share(schedule, e, 11) for e in range(1, 11)), abs=0.4)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_any_number_of_passes_costs_half_of_one_more(schedule):
    for epochs in range(1, 30):
        assert budget(schedule, epochs) == pytest.approx((epochs + 1) / 2, abs=1e-9)


def test_known_shares():
    assert [share("linear", e, 4) for e in range(4)] == [1, 0.75, 0.5, 0.25]
    half = math.sqrt(0.5)
    assert [share("cosine", e, 4) for e in range(4)] == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2])


def test_the_paper_of_batches_of_eight():
    """357 iterations a pass; rounding up the last batch of each pass adds less than one a pass."""
    assert 1963.5 <= batches("cosine", 10, 357 * 8, 8) < 1963.5 + 10
    assert batches("cosine", 1, 100, 8) == 13


def test_a_pass_has_a_row():
    assert rows_kept("cosine", 99, 100, 50) == 1
    assert rows_kept("linear", 0, 2, 7) == 7


def test_scoring_is_a_third_of_a_pass_each_time_but_the_first():
    assert scoring(10) == 3
    assert scoring(1) == 0
    assert [scoring(10, every) for every in (2, 3, 9, 20)] == pytest.approx([5 / 3, 1, 1 / 3, 1 / 3])
