import pytest

from potstill.data.arithmetic import DIGITS, PREREQUISITES, SIZES, SKILLS, answer, arithmetic_rows, question
from potstill.data.curriculum.graph import sequence
from potstill.recipe_yaml import load_recipe


@pytest.mark.parametrize(("skill", "digit"), [("units", 5), ("carry", 1), ("tens", 6)])
def test_a_sum_by_hand(skill, digit):
    """47 + 18 = 65."""
    assert answer(skill, 47, 18) == digit
    assert question(skill, 47, 8) == f"{skill}: 4 7 + 0 8"


def test_the_tens_are_the_digits_and_the_carry():
    for one in range(100):
        for other in range(100):
            assert answer("tens", one, other) == (one // 10 + other // 10 + answer("carry", one, other)) % 10


def test_splits_are_disjoint_whole_and_in_a_fixed_order():
    splits = {name: list(arithmetic_rows(name)) for name in SIZES}
    texts = [text for rows in splits.values() for text, _, _ in rows]
    assert len(set(texts)) == len(texts) == 3 * sum(SIZES.values())
    for name, rows in splits.items():
        assert [sum(skill == one for *_, skill in rows) for one in SKILLS] == [SIZES[name]] * 3
        assert {digit for _, digit, _ in rows} == set(DIGITS)
    assert splits["train"][0] == ("units: 6 3 + 9 2", "5", "units")


def test_the_recipe_names_the_same_prerequisites():
    found = load_recipe("curriculum").order.mastery.prerequisites
    assert {skill: set(before) for skill, before in found.items()} == {
        skill: set(before) for skill, before in PREREQUISITES.items()
    }
    assert sequence(SKILLS, found)[-1] == "tens"
