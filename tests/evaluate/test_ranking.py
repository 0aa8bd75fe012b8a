import math

import pytest

from potstill.evaluate.ranking import rank


def test_means_order_and_paired_differences_decide():
    found = rank({"a": [0.70, 0.72, 0.74], "b": [0.60, 0.62, 0.64], "c": [0.69, 0.73, 0.735]}, higher_is_better=True)
    assert [one.name for one in found.standings] == ["a", "c", "b"]
    assert [one.rank for one in found.standings] == [1, 1, 3]
    assert [one.like for one in found.standings] == [(), ("a",), ()]
    assert found.differences["a", "b"].value == pytest.approx(0.10)


def test_lower_may_be_better():
    found = rank({"a": [80, 90, 85], "b": [70.5, 80, 75.2]}, higher_is_better=False)
    assert [(one.name, one.rank) for one in found.standings] == [("b", 1), ("a", 2)]


def test_pairing_tells_apart_what_separate_intervals_do_not():
    """Seeds differ by ten times what the arms do."""
    seeds = [0.0, 1.0, 2.0, 3.0]
    found = rank({"a": [x + 0.1 for x in seeds], "b": seeds}, higher_is_better=True)
    first, second = found.standings
    assert second.estimate.high > first.estimate.low
    assert second.rank == 2


@pytest.mark.parametrize(("arms", "pairs"), [(2, 1), (3, 3), (5, 10)])
def test_intervals_are_widened_for_every_pair(arms, pairs):
    found = rank({str(arm): [arm, arm + 0.5] for arm in range(arms)}, higher_is_better=True)
    assert len(found.differences) == pairs
    assert math.isclose(found.level, 1 - 0.05 / pairs)


def test_known_interval():
    """Differences 1, 2, 3: mean 2, s 1, t(2, 97.5 %) = 4.302653: 2 -+ 4.302653 / sqrt(3)."""
    found = rank({"a": [1.0, 2.0, 3.0], "b": [0.0, 0.0, 0.0]}, higher_is_better=True)
    assert found.differences["a", "b"].low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.standings[1].like == ("a",)


def test_equal_arms_cannot_be_told_apart():
    found = rank({"a": [1.0, 2.0], "b": [1.0, 2.0]}, higher_is_better=True)
    assert [one.rank for one in found.standings] == [1, 1]


@pytest.mark.parametrize("values", [{"a": [1.0], "b": [2.0]}, {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}])
def test_seeds_that_do_not_pair_are_refused(values):
    with pytest.raises(ValueError, match="same seeds, two or more"):
        rank(values, higher_is_better=True)
