"""A black box as teacher: exactly the truth at every weighted position, by every way; or a refusal that says why."""

import json

import pytest
import torch

from potstill.core.batch import Batch, next_token_targets
from potstill.core.errors import EndpointError, SignalError
from potstill.core.signal import Want
from potstill.divergences.sparse import top_k
from potstill.teachers.endpoint import EndpointTeacher
from potstill.teachers.endpoint_settings import TopKSettings
from tests.teachers.bigrams import END, SIZE, Bigrams, bytes_tokenizer, truth
from tests.teachers.fake_endpoint import HANG, serving

K = 5
TEXTS = ("The dog ran.", "A longer row, with an end", "ab")


def batch_of(texts=TEXTS, tokenizer=None):
    rows = [(tokenizer or bytes_tokenizer())(text)["input_ids"] + [END] for text in texts]
    length = max(map(len, rows))
    tokens = torch.full((len(rows), length), SIZE - 2)
    attention = torch.zeros(len(rows), length, dtype=torch.bool)
    for at, row in enumerate(rows):
        tokens[at, : len(row)] = torch.tensor(row)
        attention[at, : len(row)] = True
    targets, weights = next_token_targets(tokens, attention)
    weights[1:2, :4] = 0  # a prompt, which nobody asks about
    return Batch(tuple(texts), tokens, attention, targets, {"soft": weights, "hard": weights})


def connect(url, *, top_k=K, tokenizer=None, **settings):
    settings = TopKSettings(url=url, **settings)
    return EndpointTeacher.connect(settings, tokenizer or bytes_tokenizer(), vocabulary_size=SIZE, top_k=top_k)


def signal_of(teacher, batch):
    return teacher.signal(batch, Want(top_k=K)).logits


SERVERS = [
    ("vllm", "auto", "prompt_logprobs"),
    ("openai", "auto", "echo"),
    ("shifted", "auto", "echo"),
    ("generated", "next_token", "next_token"),
    ("shifted", "next_token", "next_token"),
    ("openai", "echo", "echo"),
]


@pytest.mark.parametrize(("kind", "way", "found"), SERVERS)
def test_the_signal_is_the_truth(kind, way, found, quick):
    batch = batch_of()
    expected = top_k(truth()[batch.tokens_BL], k=K, temperature=1.0)
    weighted = batch.weights["soft"] != 0
    with serving(Bigrams(kind)) as endpoint:
        teacher = connect(endpoint.url, way=way)
        said = signal_of(teacher, batch)
        teacher.close()
    assert teacher.way_name == found
    assert torch.equal(said.indices_BTK[weighted], expected.indices_BTK[weighted])
    torch.testing.assert_close(said.logprobs_BTK[weighted], expected.logprobs_BTK[weighted].float())
    torch.testing.assert_close(said.log_tail_BT[weighted], expected.log_tail_BT[weighted].float(), atol=1e-5, rtol=1e-5)
    assert said.temperature == 1
    assert teacher.voice.vocabulary_size == SIZE
    assert teacher.voice.teacher == f"black-1 at {endpoint.url}"


def test_a_position_nobody_asks_about_says_nothing(quick):
    batch = batch_of()
    with serving(Bigrams("vllm")) as endpoint:
        said = signal_of(connect(endpoint.url), batch)
    silent = batch.weights["soft"] == 0
    assert (said.logprobs_BTK[silent] == -torch.inf).all()
    assert (said.log_tail_BT[silent] == 0).all()


def test_a_list_one_place_late_would_teach_another_text(quick):
    """The shift is worth finding: read as OpenAI's, the lists of a shifted server are another distribution."""
    batch = batch_of(TEXTS[:1])
    late = truth()[batch.tokens_BL.roll(-1, dims=1)].log_softmax(-1)
    assert (late - truth()[batch.tokens_BL].log_softmax(-1)).abs().max() > 1
    with serving(Bigrams("shifted")) as endpoint:
        assert connect(endpoint.url)._way.shift == 1
    with serving(Bigrams("openai")) as endpoint:
        assert connect(endpoint.url)._way.shift == 0


def test_an_entry_without_a_text_of_its_own_goes_to_the_tail(quick):
    batch, box = batch_of(TEXTS[2:]), Bigrams("shifted")
    last = int(batch.tokens_BL[0, 1])
    part = bytes_tokenizer()("東")["input_ids"][0]
    box.logprobs = box.logprobs.clone()
    box.logprobs[last, part] = box.logprobs[last].max() + 1
    box.logprobs = torch.log_softmax(box.logprobs, dim=-1)
    with serving(box) as endpoint:
        said = signal_of(connect(endpoint.url), batch)
    assert part not in said.indices_BTK[0, 1]
    mass = said.logprobs_BTK[0, 1].exp().sum() + said.log_tail_BT[0, 1].exp()
    torch.testing.assert_close(mass, torch.tensor(1.0))
    assert said.log_tail_BT[0, 1].exp() > box.logprobs[last, part].exp()


@pytest.mark.parametrize(
    ("kind", "way", "other"),
    [
        ("vllm", "auto", {"swapped": True}),
        ("vllm", "auto", {"merged": True}),
        ("openai", "auto", {"merged": True}),
        ("shifted", "auto", {"merged": True}),
        ("shifted", "next_token", {"merged": True}),
    ],
    ids=str,
)
def test_another_tokenizer_is_refused_with_both(kind, way, other, quick):
    with serving(Bigrams(kind)) as endpoint, pytest.raises(SignalError, match="do not read text alike") as caught:
        connect(endpoint.url, way=way, tokenizer=bytes_tokenizer(**other))
    assert "black-1" in str(caught.value)
    assert "potstill write" in str(caught.value)


def test_text_alone_cannot_teach_and_is_told_what_it_can_do(quick):
    with serving(Bigrams("text")) as endpoint, pytest.raises(EndpointError) as caught:
        connect(endpoint.url)
    said = str(caught.value)
    for part in ("cannot serve as a teacher", "prompt_logprobs: no log-prob", "echo: no log-prob", "potstill write"):
        assert part in said


def test_its_own_tokens_alone_are_offered_the_slow_way(quick):
    with serving(Bigrams("generated")) as endpoint, pytest.raises(EndpointError, match="`way: next_token`"):
        connect(endpoint.url)


def test_lists_that_contradict_its_own_next_token_are_not_trusted(quick):
    class Liar(Bigrams):
        def _echo(self, ids, k):
            return super()._echo([*ids[3:], *ids[:3]], k) | {"tokens": [self._text(one) for one in [*ids, 65]]}

    with serving(Liar("openai")) as endpoint, pytest.raises(EndpointError, match="not what it would write"):
        connect(endpoint.url, way="echo")


def position(reply, at=3):
    return reply["choices"][0]["prompt_logprobs"][at]


def shorter(reply):
    del reply["choices"][0]["prompt_logprobs"][-1]


def other_ids(reply):
    here = position(reply)
    here[str(SIZE + 5)] = here.pop(next(reversed(here)))


def other_text(reply):
    next(iter(position(reply).values()))["decoded_token"] = "zebra"


def unsorted(reply):
    entries = list(position(reply).values())
    entries[-1]["logprob"], entries[-2]["logprob"] = entries[-2]["logprob"] + 0.5, entries[-1]["logprob"]


def short(reply):
    here = position(reply)
    for name in list(here)[2:]:
        del here[name]


def above_one(reply):
    for one in position(reply).values():
        one["logprob"] = -0.1


def positive(reply):
    next(iter(position(reply).values()))["logprob"] = 0.7


def null(reply):
    next(iter(position(reply).values()))["logprob"] = None


def other_model(reply):
    reply["model"] = "black-2"


def absent(reply):
    del reply["choices"][0]["prompt_logprobs"]


def as_bytes(text):
    return lambda reply: (200, text)


def with_nan(reply):
    next(iter(position(reply).values()))["logprob"] = float("nan")
    return 200, json.dumps(reply).encode()


WRONG = {
    "another length": shorter,
    "another vocabulary": other_ids,
    "another vocabulary (text)": other_text,
    "unsorted log-probabilities": unsorted,
    "short top-k": short,
    "a probability above 1": above_one,
    "a probability above 1 (entry)": positive,
    "a number that is none": null,
    "a number that is none (NaN)": with_nan,
    "another model": other_model,
    "no log-probabilities": absent,
    "HTML instead of JSON": as_bytes(b"<html>502 Bad Gateway</html>"),
    "not JSON": as_bytes(b'{"model": "black-1", "choices": [{"prompt_'),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_refused_counted_and_nothing_of_it_enters(name, quick):
    batch = batch_of(TEXTS[:1])
    expected = top_k(truth()[batch.tokens_BL], k=K, temperature=1.0)
    weighted = batch.weights["soft"] != 0
    wrong = {"left": 0}

    def spoil(reply, number):
        if wrong["left"] == 0:
            return reply
        wrong["left"] -= 1
        reply = json.loads(json.dumps(reply))
        return WRONG[name](reply) or reply

    with serving(Bigrams("vllm", spoil=spoil)) as endpoint:
        teacher = connect(endpoint.url, max_bad_replies=3)
        wrong["left"] = 2
        said = signal_of(teacher, batch)
        assert torch.equal(said.indices_BTK[weighted], expected.indices_BTK[weighted])
        torch.testing.assert_close(said.logprobs_BTK[weighted], expected.logprobs_BTK[weighted].float())
        assert dict(teacher.client.refused) == {name.partition(" (")[0]: 2}
        wrong["left"] = 100
        with pytest.raises(EndpointError, match=r"wrongly 4 times, and max_bad_replies is 3"):
            signal_of(teacher, batch)


def test_a_context_too_short_names_the_row(quick):
    short = []

    def spoil(reply, number):
        return (400, {"error": {"message": "context length is 8"}}) if short else reply

    with serving(Bigrams("vllm", spoil=spoil)) as endpoint:
        teacher = connect(endpoint.url)
        short.append(True)
        with pytest.raises(EndpointError, match=r"refuses row The dog ran\. of 13 tokens \(400 context length is 8\)"):
            signal_of(teacher, batch_of(TEXTS[:1]))


def test_a_stop_is_heard_while_the_teacher_is_silent(quick):
    class Enough(Exception):
        pass

    silent, stop = [], []

    def check():
        if stop:
            raise Enough

    def spoil(reply, number):
        if silent:
            stop.append(True)
            return HANG
        return reply

    with serving(Bigrams("vllm", spoil=spoil)) as endpoint:
        settings = TopKSettings(url=endpoint.url)
        teacher = EndpointTeacher.connect(settings, bytes_tokenizer(), vocabulary_size=SIZE, top_k=K, check=check)
        silent.append(True)
        with pytest.raises(Enough):
            signal_of(teacher, batch_of(TEXTS[:1]))


@pytest.mark.parametrize(
    "want", [Want(top_k=4), Want(), Want(top_k=K, temperature=2.0), Want(top_k=K, headed=True)], ids=str
)
def test_what_an_endpoint_cannot_say_is_not_made_up(want, quick):
    with serving(Bigrams("vllm")) as endpoint, pytest.raises(SignalError, match="5 likeliest tokens at temperature 1"):
        connect(endpoint.url).signal(batch_of(), want)
