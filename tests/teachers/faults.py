"""What can go wrong between a student and a teacher, as wrappers around a service's application."""

import asyncio
import json
import random
from collections import Counter

import torch

from potstill.teachers.wire import Frame, decode, encode


async def said(send, status, body, **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def refuses(app, scope, receive, send):
    raise RuntimeError("reset")


async def breaks_half_way(app, scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100000")]})
    await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
    raise RuntimeError("reset")


async def hangs(app, scope, receive, send):
    await asyncio.sleep(30)


async def trickles(app, scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(300):
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.1)


def status(code, **headers):
    async def answer(app, scope, receive, send):
        await said(send, code, b'{"error": {"message": "for the test"}}', **headers)

    return answer


def body(content, kind="application/x-potstill-frame"):
    async def answer(app, scope, receive, send):
        await said(send, 200, content, content_type=kind)

    return answer


def changed(change):
    """The true answer, changed. change: from the frame to another one, or to bytes."""

    async def answer(app, scope, receive, send):
        parts = []

        async def kept(message):
            parts.append(message)

        await app(scope, receive, kept)
        whole = b"".join(part.get("body", b"") for part in parts)
        if parts[0]["status"] == 200:
            found = change(decode(bytearray(whole)))
            whole = found if isinstance(found, bytes) else b"".join(encode(found))
        await said(send, parts[0]["status"], whole, content_type="application/x-potstill-frame")

    return answer


def with_tensors(**changes):
    """Tensors replaced by what a function makes of them."""

    def change(frame):
        tensors = {name: changes[name](tensor) if name in changes else tensor for name, tensor in frame.tensors.items()}
        return Frame(frame.kind, frame.meta, tensors)

    return changed(change)


def with_meta(**changes):
    return changed(lambda frame: Frame(frame.kind, {**frame.meta, **changes}, frame.tensors))


def poisoned(tensor):
    tensor = tensor.clone()
    tensor[0, 0] = torch.nan
    return tensor


class Chaos:
    """Errors, hangs and garbage by chance, with the same draws each time."""

    def __init__(self, *, errors, hangs, garbage, seed=0, hang_s=1.0):
        self.shares, self.draw, self.hang_s = (errors, hangs, garbage), random.Random(seed), hang_s
        self.did = Counter()

    def __call__(self, app):
        async def chaotic(scope, receive, send):
            if scope.get("path") != "/v1/signals":
                await app(scope, receive, send)
                return
            errors, hangs, garbage = self.shares
            chance, kind = self.draw.random(), self.draw.randrange(10**6)
            if chance < errors:
                self.did["errors"] += 1
                faults = (
                    status(500),
                    status(503, retry_after="0"),
                    status(429, retry_after="0"),
                    refuses,
                    breaks_half_way,
                )
                await faults[kind % len(faults)](app, scope, receive, send)
            elif chance < errors + hangs:
                self.did["hangs"] += 1
                await asyncio.sleep(self.hang_s)
            elif chance < errors + hangs + garbage:
                self.did["garbage"] += 1
                await GARBAGE[kind % len(GARBAGE)](app, scope, receive, send)
            else:
                self.did["sound"] += 1
                await app(scope, receive, send)

        return chaotic


ERRORS = (status(500), status(503, retry_after="0"), status(429, retry_after="0"), refuses, breaks_half_way)
GARBAGE = (
    with_tensors(logits=poisoned),
    with_tensors(logits=lambda tensor: tensor[:-1]),
    with_tensors(logits=lambda tensor: tensor[:, :-1]),
    changed(
        lambda frame: Frame(frame.kind, {**frame.meta, "rows": ["0" * 32, *frame.meta["rows"][1:]]}, frame.tensors)
    ),
    changed(lambda frame: b"".join(encode(frame))[:-100]),
    body(b"<!doctype html><title>502 Bad Gateway</title>", "text/html"),
    body(json.dumps({"choices": []}).encode()[:-3], "application/json"),
)
