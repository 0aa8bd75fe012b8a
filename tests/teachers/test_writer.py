"""From prompts to Examples: what is kept, what is rejected and counted, what ends it; and no answer twice or lost."""

import asyncio
import json
import random

import pytest

from potstill.core.errors import EndpointError
from potstill.core.example import Example, Message
from potstill.core.lineage import Lineage
from potstill.teachers.answers import EndpointAnswers
from potstill.teachers.client import Client
from potstill.teachers.endpoint_settings import EndpointSettings, SamplingSettings
from potstill.teachers.manuscript import Manuscript
from potstill.teachers.speaker import OneModel, model_to_ask
from potstill.teachers.writer import Writer, WriterLimits, asked_turns, reference_of, seed_of, turns_of
from tests.teachers.fake_endpoint import HANG, RESET, reply, serving

HUMAN = Lineage("questions", "r1", "MIT")


def prompts(number):
    return [Example(HUMAN, prompt=f"What is {index} + 1?", response=str(index + 1)) for index in range(number)]


def write(url, path, asked=None, *, sampling=None, limits=None, check=lambda: None, **settings):
    """One sitting of a job, and its manuscript."""
    sampling = sampling or SamplingSettings()
    paper = Manuscript(path, {"job": 1})
    settings = EndpointSettings(url=url, **settings)

    async def run():
        async with Client(settings) as client:
            answers = EndpointAnswers(client, await model_to_ask(client), sampling, OneModel(paper.model))
            writer = Writer(
                answers.answer, sampling, limits or WriterLimits(settings.concurrency), licence="MIT", check=check
            )
            return await writer.write(prompts(6) if asked is None else asked, paper)

    try:
        return asyncio.run(run()), paper
    finally:
        paper.close()


def text_of(body):
    return body["messages"][-1]["content"]


def test_every_prompt_and_sample_once_with_its_own_seed_and_lineage(tmp_path, quick):
    with serving(lambda route, body, number: reply(f"{text_of(body)} seed {body['seed']}")) as endpoint:
        written, paper = write(endpoint.url, tmp_path / "a.jsonl", sampling=SamplingSettings(samples=3))
    rows = list(paper.rows())
    assert written.ended == "complete"
    assert [(row["index"], row["sample"]) for row in rows] == [(i, s) for i in range(6) for s in range(3)]
    assert [row["seed"] for row in rows] == [seed_of(0, i, s) for i in range(6) for s in range(3)]
    assert len({row["seed"] for row in rows}) == 18
    assert all(row["completion"] == f"{row['prompt']} seed {row['seed']}" for row in rows)
    assert rows[0]["lineage"] == {
        "source": "questions", "revision": "r1", "licence": "MIT", "maker": "black-1", "generation": 1
    }  # fmt: skip
    assert rows[0]["reference"] == "1"
    assert rows[0]["prompt_id"] == prompts(1)[0].id
    assert rows[0]["messages"][-1] == {"role": "assistant", "content": rows[0]["completion"]}
    assert len(endpoint.asked) == 18
    route, body = endpoint.asked[0]
    assert route == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("black-1", 0.7, 0.95, 512)


def test_plain_completions_and_the_template(tmp_path, quick):
    sampling = SamplingSettings(route="completion", template="Q: {prompt}\nA:", stop=("\n",))
    with serving(lambda route, body, number: reply(f"to {body['prompt']}")) as endpoint:
        _, paper = write(endpoint.url, tmp_path / "a.jsonl", sampling=sampling)
    route, body = endpoint.asked[0]
    assert (route, body["stop"]) == ("/v1/completions", ["\n"])
    row = next(paper.rows())
    assert row["completion"] == "to Q: What is 0 + 1?\nA:"
    assert (row["prompt"], row["messages"]) == ("What is 0 + 1?", None)


def test_a_conversation_is_answered_after_its_last_question():
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d"))
    talk = Example(HUMAN, messages=turns)
    assert turns_of(talk) == turns[:3]
    assert reference_of(talk) == "d"
    asked = asked_turns(turns_of(talk), SamplingSettings(system="Be short.", template="{prompt} Think."))
    assert [turn.content for turn in asked] == ["Be short.", "a", "b", "c Think."]


def test_thoughts_told_apart_are_kept_apart(tmp_path, quick):
    with serving(reply("42", reasoning_content="12 + 30")) as endpoint:
        _, paper = write(endpoint.url, tmp_path / "a.jsonl", prompts(1))
    row = next(paper.rows())
    assert (row["completion"], row["reasoning"]) == ("42", "12 + 30")


FAULTS = {
    "empty answer": reply(""),
    "repeats itself": reply("no, wait. " * 50, finish="length"),
    "cut off at max_tokens": reply("We begin with", finish="length"),
    "characters that are no text": (200, json.dumps(reply("half \ud83d a face")).encode()),
    "prompt longer than the context": (
        400,
        {"error": {"message": "maximum context length is 512 tokens", "code": "context_length_exceeded"}},
    ),
    "refused by the endpoint's content policy": (400, {"error": {"message": "no", "code": "content_filter"}}),
}


@pytest.mark.parametrize("reason", FAULTS)
def test_what_nobody_should_learn_is_set_aside_and_counted(reason, tmp_path, quick):
    def answer(route, body, number):
        return FAULTS[reason] if "2 + 1" in text_of(body) else reply()

    with serving(answer) as endpoint:
        written, paper = write(endpoint.url, tmp_path / "a.parquet")
    paper.publish()
    assert dict(written.rejected) == {reason: 1}
    assert [row["index"] for row in paper.rows() if row["rejected"]] == [2]
    assert (paper.kept, written.ended) == (5, "complete")


def test_a_call_of_a_tool_is_an_empty_answer(tmp_path, quick):
    with serving(reply(None, tool_calls=[{"function": {"name": "rm", "arguments": "-rf"}}])) as endpoint:
        written, _ = write(endpoint.url, tmp_path / "a.jsonl", prompts(1))
    assert dict(written.rejected) == {"empty answer": 1}


def test_cut_answers_are_kept_when_asked_for(tmp_path, quick):
    with serving(FAULTS["cut off at max_tokens"]) as endpoint:
        written, paper = write(endpoint.url, tmp_path / "a.jsonl", sampling=SamplingSettings(cut_answers="keep"))
    assert (dict(written.rejected), paper.kept) == ({}, 6)


def test_nothing_but_rejects_in_a_row_ends_it(tmp_path, quick):
    with serving(reply("")) as endpoint, pytest.raises(EndpointError, match=r"last 8 answers .*empty answer: 8"):
        write(endpoint.url, tmp_path / "a.jsonl", prompts(100), limits=WriterLimits(1, rejects_in_a_row=8))
    assert len(endpoint.asked) == 8


def test_any_other_refusal_ends_it_with_the_servers_words(tmp_path, quick):
    refusal = (400, {"error": {"message": "top_p is not supported"}})
    with serving(refusal) as endpoint, pytest.raises(EndpointError, match="top_p is not supported"):
        write(endpoint.url, tmp_path / "a.jsonl")
    assert not Manuscript(tmp_path / "a.jsonl", {"job": 1}).written


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (reply(model="black-2"), "another model"),
        ({**reply(), "model": None}, "no model id"),
        ({**reply(), "choices": []}, "not one choice"),
        ({**reply(), "choices": reply()["choices"] * 2}, "not one choice"),
        ({**reply(), "choices": [{"message": None}]}, "no message"),
        (reply(17), "no text"),
        ({**reply(), "usage": {"prompt_tokens": -4}}, "usage that cannot be"),
    ],
)
def test_another_model_or_shape_is_asked_again_and_never_kept(bad, reason, tmp_path, quick):
    counted = {}

    async def run(url, paper):
        async with Client(EndpointSettings(url=url, concurrency=1)) as client:
            answers = EndpointAnswers(client, "black-1", SamplingSettings(), OneModel())
            await Writer(answers.answer, SamplingSettings(), WriterLimits(1)).write(prompts(4), paper)
            counted.update(client.refused)

    with serving(lambda route, body, number: bad if number == 3 else reply(f"{number}")) as endpoint:
        paper = Manuscript(tmp_path / "a.jsonl", {})
        asyncio.run(run(endpoint.url, paper))
    assert counted == {reason: 1}
    assert [row["completion"] for row in paper.rows()] == ["1", "2", "4", "5"]


def test_a_teacher_that_goes_away_loses_nothing(tmp_path, quick):
    answer = lambda route, body, number: reply(f"{number}") if number <= 4 else (503, {})  # noqa: E731
    with serving(answer) as endpoint, pytest.raises(EndpointError, match="nothing that was saved is lost"):
        write(endpoint.url, tmp_path / "a.jsonl", prompts(10), attempts=2, concurrency=1)
    with serving(lambda route, body, number: reply(f"again {number}")) as endpoint:
        written, paper = write(endpoint.url, tmp_path / "a.jsonl", prompts(10), concurrency=1)
    assert [row["completion"] for row in paper.rows()] == [*"1234", *(f"again {n}" for n in range(1, 7))]
    assert (len(endpoint.asked), written.answers) == (6, 10)


def test_the_budget_is_not_exceeded_and_may_be_raised(tmp_path, quick):
    sampling = SamplingSettings(max_tokens=10)
    answer = reply(prompt_tokens=2, completion_tokens=8)
    with serving(answer) as endpoint:
        written, _ = write(
            endpoint.url, tmp_path / "a.jsonl", prompts(50), sampling=sampling, limits=WriterLimits(4, budget=100)
        )
        assert (written.ended, written.tokens, written.answers) == ("budget", 100, 10)
        again, _ = write(
            endpoint.url, tmp_path / "a.jsonl", prompts(50), sampling=sampling, limits=WriterLimits(4, budget=1000)
        )
    assert (again.ended, again.answers, again.tokens) == ("complete", 50, 500)
    assert len(endpoint.asked) == 50


def test_a_budget_needs_tokens_that_are_counted(tmp_path, quick):
    with (
        serving({**reply(), "usage": None}) as endpoint,
        pytest.raises(EndpointError, match="does not count its tokens"),
    ):
        write(endpoint.url, tmp_path / "a.jsonl", limits=WriterLimits(1, budget=10_000))


def test_a_stop_keeps_what_came(tmp_path, quick):
    class Enough(Exception):
        pass

    def check():
        if len(endpoint.asked) >= 20:
            raise Enough

    with serving(lambda route, body, number: reply(f"{number}")) as endpoint, pytest.raises(Enough):
        write(endpoint.url, tmp_path / "a.jsonl", prompts(500), check=check)
    kept = Manuscript(tmp_path / "a.jsonl", {"job": 1}).written
    assert 16 <= len(kept) < 30


def test_chaos_ends_with_every_answer_once_and_nothing_bad_kept(tmp_path, quick):
    """20 % errors, 5 % hangs, 1 % garbage: the aim of the reliability page, on 400 answers."""
    draw = random.Random(5)
    garbage = [(200, b"<html>"), (200, b'{"model": "bl'), reply(model="black-2")]
    fates = [
        *[(503, {}), (429, {}, {"Retry-After": "0"}), (500, b""), RESET, (200, b"{", {"Content-Length": "90"})] * 32,
        *[HANG] * 40,
        *garbage * 3,
        *[None] * 591,
    ]
    draw.shuffle(fates)

    def answer(route, body, number):
        return fates[number % len(fates)] or reply(f"to {text_of(body)}")

    with serving(answer) as endpoint:
        written, paper = write(
            endpoint.url, tmp_path / "a.jsonl", prompts(400), timeout=0.3, concurrency=16, max_bad_replies=50
        )
    assert (written.ended, dict(written.rejected)) == ("complete", {})
    assert [row["completion"] for row in paper.rows()] == [f"to What is {index} + 1?" for index in range(400)]


def test_two_models_to_choose_from_are_not_guessed(quick, monkeypatch):
    class Two(Client):
        async def ask(self, route, body, read, *, probe=False):
            return read({"data": [{"id": "a"}, {"id": "b"}]})

    with pytest.raises(EndpointError, match=r"lists 2 models \(a, b\): set model"):
        asyncio.run(model_to_ask(Two(EndpointSettings(url="http://127.0.0.1:9/v1"))))
