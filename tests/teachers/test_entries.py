import math

import pytest

from potstill.teachers.client import BadReply
from potstill.teachers.entries import SMALLEST_TAIL, Entry, read_entries, top_entries
from potstill.teachers.token_texts import TokenTexts
from tests.teachers.bigrams import bytes_tokenizer


@pytest.fixture(scope="module")
def texts():
    return TokenTexts(bytes_tokenizer())


def test_the_three_shapes_say_the_same(texts):
    ids = {text: texts.id_of(text) for text in "ab"}
    shapes = [
        {"a": -0.5, "b": -1.5},
        {f"token_id:{ids['a']}": -0.5, f"token_id:{ids['b']}": -1.5},
        {str(ids["a"]): {"logprob": -0.5, "rank": 1}, str(ids["b"]): {"logprob": -1.5, "decoded_token": "b"}},
        [{"token": "a", "logprob": -0.5}, {"id": ids["b"], "token": "b", "logprob": -1.5, "bytes": [98]}],
    ]
    for shape in shapes:
        top = top_entries(read_entries(shape), texts, k=2)
        assert top.ids == (ids["a"], ids["b"])
        assert top.logprobs == (-0.5, -1.5)
        assert top.log_tail == pytest.approx(math.log(1 - math.exp(-0.5) - math.exp(-1.5)))


@pytest.mark.parametrize(
    "value",
    [None, "x", 3, [1], [{}], {"1": {}}, {"x": {"logprob": -1}}, {"a": True}, {"a": "-1"}, {"a": 0.5}, {"٣": {}}],
    ids=str,
)
def test_other_shapes_are_refused(value):
    with pytest.raises(BadReply):
        read_entries(value)


def test_the_token_that_is_there_counts_only_among_the_likeliest(texts):
    a, b, c = (Entry(value, texts.id_of(text)) for text, value in (("a", -0.5), ("b", -1.5), ("c", -3.0)))
    first = top_entries([c, a, b], texts, k=2, extra=c)
    assert first.ids == (a.index, b.index)
    assert top_entries([a, b], texts, k=2, extra=b).ids == (a.index, b.index)
    with pytest.raises(BadReply, match="short top-k"):
        top_entries([a, Entry(-2.0, text="nobody's")], texts, k=2)
    with pytest.raises(BadReply, match="a token twice"):
        top_entries([a, Entry(-2.0, text="a")], texts, k=2)
    with pytest.raises(BadReply, match="another vocabulary"):
        top_entries([a, Entry(-2.0, 10_000)], texts, k=2)
    with pytest.raises(BadReply, match="unsorted"):
        top_entries([c, a, b], texts, k=2)


def test_a_mass_of_nothing_left_is_not_called_impossible(texts):
    top = top_entries([Entry(0.0, 1), Entry(-40.0, 2)], texts, k=2)
    assert top.log_tail == math.log(SMALLEST_TAIL)


def test_texts_that_stand_for_several_tokens_stand_for_none(texts):
    assert texts.id_of("a") == bytes_tokenizer()("a")["input_ids"][0]
    assert texts.id_of("") is None
    assert texts.id_of("\ufffd") is None
    part = bytes_tokenizer()("東")["input_ids"][0]
    assert texts.fits(part, "")
    assert texts.fits(part, "\ufffd")
    assert not texts.fits(part, "a")
    assert not texts.fits(len(texts.texts), "a")
