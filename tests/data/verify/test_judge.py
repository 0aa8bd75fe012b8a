"""Truth tables: which answers are right, wrong, or no answers."""

import pytest

from potstill.data.packaged import packaged_rows
from potstill.data.verify.judge import Asked, judging
from potstill.data.verify.settings import VerifySettings

GSM = "Eggs left are 16 - 3 - 4 = <<16-3-4=9>>9, at $2 each.\n#### 18"
CHOICE = "Which is the capital of France?\nA. Berlin\nB. Paris\nC. A city\nD. Rome"


def verdict(kind, completion, reference, prompt="", **more):
    with judging(VerifySettings(kind=kind, **more)) as judge:
        return judge(Asked(prompt, completion, reference))


@pytest.mark.parametrize(
    ("completion", "reference", "outcome"),
    [
        ("9 eggs at 2 dollars.\n#### 18", GSM, "right"),
        ("The answer is 18.", GSM, "right"),
        ("The answer is **$18.00**.", GSM, "right"),
        ("The final answer is: 18 dollars a day", GSM, "right"),
        ("So the answer is 9 * 2 = 18", GSM, "right"),
        ("The answer is 18. She sells 9 eggs.", GSM, "right"),
        ("The answer is 17. No: the answer is 18", GSM, "right"),
        ("The answer is 18. No: the answer is 17", GSM, "wrong"),
        ("She earns $18", GSM, "right"),
        ("She earns 18 with 9 eggs", GSM, "wrong"),
        ("The answer is 18 or 19", GSM, "no answer found"),
        ("I do not know.", GSM, "no answer found"),
        ("The answer is eighteen", GSM, "no answer found"),
        ("", GSM, "no answer found"),
        (r"Hence \boxed{18}.", GSM, "right"),
        (r"The answer is $\boxed{18}$", GSM, "right"),
        (r"Hence \boxed{18", "18", "right"),  # the last number: braces that do not close mark nothing
        ("#### 1,234", "1234", "right"),
        ("#### 1234", "1,234", "right"),
        ("#### 1,23", "123", "no answer found"),
        ("#### 3/4", "0.75", "right"),
        (r"#### \frac{3}{4}", "3/4", "right"),
        ("#### 1 1/2", "1.5", "right"),
        ("#### 1/3", "0.333", "wrong"),
        ("#### 4/0", "4", "no answer found"),
        ("#### 50%", "50", "right"),
        ("#### 50 percent", "0.5", "right"),
        ("#### 0.5%", "50%", "wrong"),
        ("#### 50%", "0.5%", "wrong"),
        ("#### -7", "-7", "right"),
        ("#### 7", "-7", "wrong"),
        ("#### -$5", "-5", "right"),
        ("#### $-5", "-5", "right"),
        ("The answer is 12 - 5 = 7", "7", "right"),
        ("#### 2e3", "2000", "right"),
        ("#### " + "9" * 50, "9" * 50, "reference not understood"),
        ("#### " + "9" * 50, "9", "no answer found"),
        ("#### 18", "about the same", "reference not understood"),
        ("#### 18", None, "no reference"),
    ],
)
def test_numbers(completion, reference, outcome):
    assert verdict("number", completion, reference).outcome == outcome


def test_only_marked_answers_count_where_that_is_asked():
    assert verdict("number", "She earns $18", GSM, find="marked").outcome == "no answer found"
    assert verdict("number", "#### 18", GSM, find="marked").outcome == "right"


def test_a_tolerance_is_relative_to_the_reference():
    assert verdict("number", "#### 0.333", "1/3", tolerance=0.01).outcome == "right"
    assert verdict("number", "#### 0.32", "1/3", tolerance=0.01).outcome == "wrong"


def test_the_answer_begins_at_its_mark():
    text = "9 eggs are left.\nThe answer is 18."
    found = verdict("number", text, GSM)
    assert (found.answer, text[found.start :]) == ("18.", "The answer is 18.")
    assert verdict("number", "It is 18", GSM).start is None


def test_every_reference_of_gsm8k_is_understood_and_right_by_itself():
    """On real text: a worked answer is right, and one with another number is wrong."""
    with judging(VerifySettings(kind="number")) as judge:
        for row in list(packaged_rows("gsm8k-test", "test", None))[:400]:
            reference = row.values["completion"]
            assert judge(Asked("", reference, reference)).outcome == "right", reference
            assert judge(Asked("", reference.partition("####")[0] + "#### 98765.5", reference)).outcome == "wrong", (
                reference
            )


@pytest.mark.parametrize(
    ("completion", "reference", "outcome"),
    [
        ("B", "B", "right"),
        ("(b)", "B", "right"),
        ("B. Paris", "B", "right"),
        ("B) Paris", "B", "right"),
        ("Paris", "B", "right"),
        ("The answer is (B).", "B", "right"),
        ("The correct option is B: Paris", "B", "right"),
        ("The answer is Paris.", "Paris", "right"),
        ("The answer is D", "B", "wrong"),
        ("The answer is A city", "B", "wrong"),  # the words of C, and no letter A
        ("I think (A), no, (B)", "B", "right"),
        ("A capital of France is a large city.", "A", "no answer found"),
        ("The answer is E", "B", "no answer found"),
        ("None of these", "B", "no answer found"),
        ("B", "F", "reference not understood"),
        ("B", None, "no reference"),
    ],
)
def test_multiple_choice(completion, reference, outcome):
    assert verdict("choice", completion, reference, CHOICE).outcome == outcome


@pytest.mark.parametrize(
    ("completion", "reference", "outcome"),
    [
        ("The answer is Blue Whale.", "blue  whale", "right"),
        ("thinking\nblue whale", "Blue whale", "right"),
        ("The answer is a whale", "blue whale", "wrong"),
        ("  ", "blue whale", "no answer found"),
    ],
)
def test_texts(completion, reference, outcome):
    assert verdict("text", completion, reference).outcome == outcome


def test_the_last_number_of_an_answer_that_was_cut_off_is_where_it_broke_off():
    """Seen on real text: "... to feed 20 chickens is calculated by multiplying the number of", and 20 was right."""
    with judging(VerifySettings(kind="number")) as judge:
        assert (
            judge(Asked("", "To feed 20 chickens we multiply the number of", "20", cut=True)).outcome
            == "no answer found"
        )
        assert judge(Asked("", "The answer is 20. To feed", "20", cut=True)).outcome == "right"
