import asyncio
import dataclasses
import json

import pytest

from potstill.core.errors import InputError
from potstill.guard.detector import FIRST_READING, shipped
from potstill.guard.middleware import LARGEST_BODY, GuardMiddleware


def post(app, body, parts=1, headers=((b"authorization", b"Bearer sk-secret"),)):
    size = -(-len(body) // parts)
    messages = [
        {"type": "http.request", "body": body[n * size : (n + 1) * size], "more_body": n < parts - 1}
        for n in range(parts)
    ]
    scope = {"type": "http", "method": "POST", "headers": list(headers), "client": ("10.0.0.1", 1)}

    async def receive():
        return messages.pop(0)

    async def send(message):
        pass

    asyncio.run(app(scope, receive, send))


def echo(bodies):
    async def app(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        bodies.append(body)

    return app


def body(text="hello you"):
    return json.dumps({"messages": [{"role": "user", "content": text}]}).encode()


def test_bodies_pass_unchanged_and_findings_name_a_fingerprint():
    bodies, found = [], []
    strict = dataclasses.replace(shipped(), limit=-1e9)
    app = GuardMiddleware(echo(bodies), found.append, model=strict)
    for _ in range(FIRST_READING):
        post(app, body(), parts=3)
    assert bodies == [body()] * FIRST_READING
    assert [finding.subject[:4] for finding in found] == ["key-"]
    assert "secret" not in json.dumps(found[0].as_json())


def test_what_cannot_be_read_passes_and_is_counted():
    bodies = []
    app = GuardMiddleware(echo(bodies), lambda finding: None)
    hostile = [b"\x00\xff", b"[" * 5000, b'{"messages": 3}', b"x" * (LARGEST_BODY + 5)]
    for one in hostile:
        post(app, one, headers=())
    assert bodies == hostile
    assert app.unseen == len(hostile)


def guarded(seen, sent, responses, limit=-1e9):
    async def app(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        seen.append((json.loads(body), dict(scope["headers"]), scope.get("state", {})))

    return GuardMiddleware(app, sent.append, model=dataclasses.replace(shipped(), limit=limit), responses=responses)


def asked(**options):
    return json.dumps({"messages": [{"role": "user", "content": "hello you"}], **options}).encode()


def test_only_named_responses_are_taken_and_only_after_the_finding(monkeypatch):
    seen, found, waited = [], [], []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr("potstill.guard.middleware.asyncio.sleep", sleep)
    app = guarded(seen, found, ("slow", "coarsen", "watermark"))
    for _ in range(FIRST_READING + 1):
        post(app, asked(top_logprobs=20, logprobs=True), parts=2)
    assert len(found) == 1
    assert len(waited) == 2
    for before, _, state in seen[: FIRST_READING - 1]:
        assert (before["top_logprobs"], state) == (20, {})
    after, headers, state = seen[-1]
    assert (after["top_logprobs"], after["logprobs"], state) == (1, True, {"potstill.guard": "watermark"})
    assert int(headers[b"content-length"]) == len(json.dumps(after))


def test_refusing_answers_429_to_the_accused_and_to_nobody_else():
    seen, found = [], []
    app = guarded(seen, found, ("refuse",))
    for _ in range(FIRST_READING + 3):
        post(app, asked())
    assert len(seen) == FIRST_READING - 1
    post(app, asked(), headers=((b"authorization", b"Bearer sk-other"),))
    assert len(seen) == FIRST_READING


def test_a_body_cannot_name_another_account():
    found = []
    app = guarded([], found, ())
    for number in range(FIRST_READING):
        post(app, asked(user=f"somebody-else-{number}"))
    assert [finding.subject[:4] for finding in found] == ["key-"]


def test_an_unknown_response_is_refused_at_once():
    with pytest.raises(InputError, match="'ban' is no response"):
        guarded([], [], ("ban",))
