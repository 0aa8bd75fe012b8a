import pytest

from potstill.teachers.repetition import ends_in_a_loop

PROSE = "We add 12 and 30. That gives 42, since 10 + 30 is 40 and 2 more make 42. The answer is 42, as asked. "


@pytest.mark.parametrize(
    "text",
    [
        "The answer is: " + "no, wait. " * 30,
        PROSE + "ha" * 100,
        PROSE + "\n" * 200,
        PROSE * 8,
        PROSE + "I think that the answer is 4. " * 12 + "I think that",
    ],
    ids=["phrase", "syllable", "blank lines", "paragraph", "last copy cut off"],
)
def test_loops(text):
    assert ends_in_a_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        PROSE,
        PROSE * 3,
        "-" * 80,
        "| 1 | 2 |\n" * 5 + PROSE,
        "".join(f"{number}, " for number in range(300)),
        "la " * 60 + PROSE,
    ],
    ids=["nothing", "short", "prose", "thrice", "a rule", "a table", "counting", "a loop that ended"],
)
def test_texts_that_end(text):
    assert not ends_in_a_loop(text)
