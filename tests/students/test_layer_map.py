import pytest

from potstill.core.errors import ModelError
from potstill.students.layer_map import checked, copied, evenly, every, explicit, uniform


def test_every_second_block():
    assert every(2, 6) == (0, 2, 4)
    assert every(3, 7) == (0, 3, 6)
    assert every(1, 3) == (0, 1, 2)


@pytest.mark.parametrize("k", [0, 6, 7])
def test_a_step_that_does_not_fit_is_refused_with_both_values(k):
    with pytest.raises(ModelError, match=rf"{k} .*6 blocks"):
        every(k, 6)


def test_named_blocks_of_distilbert():
    assert checked([0, 2, 4, 7, 9, 11], 12) == (0, 2, 4, 7, 9, 11)


@pytest.mark.parametrize(
    ("layers", "words"),
    [([], "empty"), ([0, 12], "block 12 .*0 to 11"), ([0, 4, 4], "4 comes after 4"), ([0, 5, 3], "3 comes after 5")],
)
def test_bad_layers_are_refused(layers, words):
    with pytest.raises(ModelError, match=words):
        checked(layers, 12)


def test_uniform_is_tinyberts_map():
    assert uniform(4, 12) == ((0, 0), (1, 3), (2, 6), (3, 9), (4, 12))
    assert uniform(3, 3) == ((0, 0), (1, 1), (2, 2), (3, 3))


def test_uniform_rounds_and_still_ends_at_both_ends():
    pairs = uniform(4, 6)
    assert pairs == ((0, 0), (1, 2), (2, 3), (3, 5), (4, 6))


def test_uniform_refuses_a_deeper_student():
    with pytest.raises(ModelError, match=r"7 blocks .* of 6"):
        uniform(7, 6)


def test_copied_blocks_are_paired_by_their_outputs():
    assert copied([0, 5]) == ((0, 0), (1, 1), (2, 6))


def test_an_explicit_map_names_a_state_for_each_block():
    assert explicit([3, 6, 9, 12], 4, 12) == uniform(4, 12)
    assert explicit([1, 2], 2, 12) == ((0, 0), (1, 1), (2, 2))


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([3, 6], "names 2 teacher states and the student has 3 blocks"),
        ([3, 6, 9, 12], "names 4 .* 3 blocks"),
        ([0, 6, 12], "state 0 is out of range.*1 to 12"),
        ([3, 6, 13], "state 13 is out of range.*1 to 12"),
        ([3, 3, 6], "3 comes after 3"),
        ([6, 3, 9], "3 comes after 6"),
    ],
)
def test_a_map_that_skips_past_the_end_repeats_or_does_not_fit(layers, words):
    with pytest.raises(ModelError, match=words):
        explicit(layers, 3, 12)


def test_evenly_spaced_blocks_begin_with_the_first():
    assert evenly(3, 6) == (0, 2, 4)
    assert evenly(3, 7) == (0, 2, 4)
    assert evenly(15, 30) == every(2, 30)
    assert evenly(5, 5) == (0, 1, 2, 3, 4)
    for keep in (0, 6):
        with pytest.raises(ModelError, match=f"{keep} of 5 blocks"):
            evenly(keep, 5)
