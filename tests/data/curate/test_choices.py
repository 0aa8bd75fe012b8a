"""Balance and mixture: who stays, and exact counts."""

import pytest

from potstill.core.errors import InputError
from potstill.data.curate.balance import least_alike, likeliest
from potstill.data.curate.mixture import counts_of, drawing
from potstill.data.curate.settings import MixtureSettings


def test_the_likeliest_stay_in_their_order():
    assert likeliest([3.0, 1.0, 2.0, 1.0], 2) == [1, 3]
    assert likeliest([3.0, 1.0, 2.0, 1.0], 3) == [1, 2, 3]
    assert likeliest([1.0], 5) == [0]


def test_the_least_alike_stay():
    texts = ["we add two and two to get four", "we add two and two to get four now", "count four fingers on one hand"]
    assert least_alike(texts, 2) == [0, 2]
    assert least_alike(texts, 9) == [0, 1, 2]
    assert least_alike([], 2) == []


def test_temperature_by_its_formula():
    sizes = {"a": 100, "b": 10_000}
    assert counts_of(sizes, MixtureSettings(total=1010)) == {"a": 10, "b": 1000}
    assert counts_of(sizes, MixtureSettings(temperature=2, total=110)) == {"a": 10, "b": 100}


def test_without_a_total_it_is_the_most_that_needs_no_row_twice():
    assert counts_of({"a": 100, "b": 10_000}, MixtureSettings()) == {"a": 100, "b": 10_000}
    assert counts_of({"a": 100, "b": 10_000}, MixtureSettings(weights={"a": 1, "b": 3})) == {"a": 100, "b": 300}


@pytest.mark.parametrize("total", range(1, 40))
def test_counts_sum_to_the_total_and_are_within_one_of_their_quota(total):
    counts = counts_of({"a": 50, "b": 50, "c": 50}, MixtureSettings(weights={"a": 1, "b": 2, "c": 4}, total=total))
    assert sum(counts.values()) == total
    assert all(abs(counts[name] - total * weight / 7) < 1 for name, weight in (("a", 1), ("b", 2), ("c", 4)))


def test_what_cannot_be_is_refused_with_the_numbers():
    with pytest.raises(InputError, match="needs 75 rows of b, and 10 are left"):
        counts_of({"a": 100, "b": 10}, MixtureSettings(weights={"a": 1, "b": 3}, total=100))
    with pytest.raises(InputError, match="the parts with rows left are a, b"):
        counts_of({"a": 100, "b": 10}, MixtureSettings(weights={"a": 1, "c": 3}))


def test_a_row_more_moves_no_other():
    rows = [f"row {index}" for index in range(50)]
    order = sorted(rows, key=lambda row: drawing(3, row))
    more = sorted([*rows, "another"], key=lambda row: drawing(3, row))
    assert [row for row in more if row != "another"] == order
    assert order != sorted(rows, key=lambda row: drawing(4, row))
