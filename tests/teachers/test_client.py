"""Fault 18 and 19 of a teacher elsewhere: away, busy, wrong; what each ends in."""

import asyncio
import json
import time

import pytest
from pydantic import SecretStr

from potstill.core.errors import EndpointError
from potstill.teachers.client import BadReply, Client, Refusal
from potstill.teachers.endpoint_settings import EndpointSettings
from tests.teachers.fake_endpoint import HANG, RESET, reply, serving

KEY = "canary-5f21-of-the-endpoint"


def ask(url, *, read=lambda value: value, key=None, probe=False, **settings):
    """One question, and the client that asked it."""

    async def run():
        async with Client(EndpointSettings(url=url, **settings), key) as client:
            return await client.ask("/chat/completions", {"n": 1}, read, probe=probe), client

    return asyncio.run(run())


def first_then(*first):
    """Answers these in turn, then soundly."""
    return lambda route, body, number: first[number - 1] if number <= len(first) else reply()


@pytest.mark.parametrize(
    "bad",
    [
        (503, {}, {"Retry-After": "0"}),
        (429, b"slow down"),
        (500, {"error": {"message": "oh"}}),
        RESET,
        HANG,
        (200, b'{"model": "bl', {"Content-Length": "400"}),
    ],
    ids=["503", "429", "500", "reset", "hang", "cut short"],
)
def test_away_is_asked_again(bad, quick):
    with serving(first_then(bad, bad)) as endpoint:
        answer, client = ask(endpoint.url, timeout=0.4)
        assert answer["model"] == "black-1"
        assert len(endpoint.asked) == 3
        assert not client.refused


def test_retry_after_is_honoured_by_all_questions(quick):
    begun = []

    def answer(route, body, number):
        begun.append(time.monotonic())
        return (429, {}, {"Retry-After": "0.6"}) if number == 1 else reply()

    async def run(url):
        async with Client(EndpointSettings(url=url)) as client:
            first = asyncio.create_task(client.ask("/x", {}, lambda value: value))
            await asyncio.sleep(0.2)
            await asyncio.gather(first, client.ask("/x", {}, lambda value: value))

    with serving(answer) as endpoint:
        asyncio.run(run(endpoint.url))
    assert min(begun[1:]) - begun[0] >= 0.6


def test_nobody_there_ends_with_what_to_do(quick):
    with pytest.raises(
        EndpointError, match=r"127\.0\.0\.1:9/v1: no answer in 3 attempts .* run the same command again"
    ):
        ask("http://127.0.0.1:9/v1", attempts=3)


def test_a_wait_beyond_patience_ends_it(quick):
    with (
        serving((503, {}, {"Retry-After": "3600"})) as endpoint,
        pytest.raises(EndpointError, match=r"3,600 s, and longest_wait is 120 s"),
    ):
        ask(endpoint.url)


def test_a_reply_that_drips_meets_the_deadline(quick, monkeypatch):
    async def dripping(reader, writer):
        await reader.read(1000)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(40):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async def run():
        server = await asyncio.start_server(dripping, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Client(EndpointSettings(url=f"http://127.0.0.1:{port}/v1", timeout=0.3, attempts=1)) as client:
            await client.ask("/x", {}, lambda value: value)

    started = time.monotonic()
    with pytest.raises(EndpointError, match=r"no whole reply within 0\.3 s"):
        asyncio.run(run())
    assert time.monotonic() - started < 1.5


def refusing(value):
    raise BadReply("another length", "3 for 4")


WRONG = {
    "HTML instead of JSON": b"<!DOCTYPE html><html>Sign in</html>",
    "not JSON": b'{"model": "black-1", "choi',
    "a number that is none": b'{"model": NaN}',
    "not a JSON object": b"[1, 2]",
    "longer than max_reply_bytes": b"[" + b"1," * 5000 + b"1]",
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_wrong_reply_is_refused_counted_and_asked_again(reason, quick):
    with serving(first_then((200, WRONG[reason]))) as endpoint:
        answer, client = ask(endpoint.url, max_reply_bytes=2048)
        assert answer["model"] == "black-1"
        assert dict(client.refused) == {reason: 1}


def test_too_many_wrong_replies_end_it_with_their_counts(quick):
    replies = [(200, WRONG["not JSON"]), (200, WRONG["HTML instead of JSON"])] * 4
    with (
        serving(first_then(*replies)) as endpoint,
        pytest.raises(EndpointError, match=r"wrongly 4 times, and max_bad_replies is 3 \(.*not JSON: 2"),
    ):
        ask(endpoint.url, max_bad_replies=3)
    assert len(endpoint.asked) == 4


def test_deeply_nested_json_is_no_crash(quick):
    with serving((200, b"[" * 100_000)) as endpoint, pytest.raises(EndpointError, match="not JSON"):
        ask(endpoint.url, max_bad_replies=1)


def test_a_probe_leaves_the_judgement_to_the_caller(quick):
    with serving(reply()) as endpoint, pytest.raises(BadReply, match="3 for 4"):
        ask(endpoint.url, read=refusing, probe=True)


def test_refusals_reach_whoever_asked(quick):
    body = {"error": {"message": "too long", "code": "context_length_exceeded"}}
    with serving((400, body)) as endpoint, pytest.raises(Refusal, match="400 too long") as caught:
        ask(endpoint.url)
    assert caught.value.code == "context_length_exceeded"
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("status", "match"),
    [(401, "refuses the key"), (403, "refuses the key"), (404, "is not there"), (307, "final address")],
)
def test_hopeless_statuses_end_at_once(status, match, quick):
    with serving((status, {}, {"Location": "http://127.0.0.1:9/"})) as endpoint:
        with pytest.raises(EndpointError, match=match):
            ask(endpoint.url)
        assert len(endpoint.asked) == 1


@pytest.mark.parametrize("status", [401, 400, 500])
def test_the_key_travels_and_is_never_told(status, quick):
    quoting = (status, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    with serving(quoting) as endpoint, pytest.raises((EndpointError, Refusal)) as caught:
        ask(endpoint.url, key=SecretStr(KEY), attempts=2)
    assert endpoint.headers["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)
    assert "[redacted]" in str(caught.value)


def test_a_message_shows_little_of_a_long_page(quick):
    with serving((400, json.dumps({"error": "x" * 10_000}).encode())) as endpoint, pytest.raises(Refusal) as caught:
        ask(endpoint.url)
    assert len(str(caught.value)) < 300
