import asyncio
import dataclasses
import json

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
