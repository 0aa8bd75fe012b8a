"""The HTTP side of a teacher service. Every route is behind one gate: a key, a cap on how many are inside, a deadline.

The one thing said without a key is that the process lives (`/live`), and nothing more.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from potstill.teachers.keys import KeyRing
from potstill.teachers.limits import Limits, Refused
from potstill.teachers.metrics import Metrics
from potstill.teachers.service import Service
from potstill.teachers.wire import Frame, encode

FRAME_TYPE = "application/x-potstill-frame"
_PIECE = 2**20
_ROUTES = ("/live", "/health", "/metrics", "/v1/models", "/v1/teacher", "/v1/signals", "/v1/completions")
T = TypeVar("T")


def application(service: Service, keys: KeyRing, around: Callable[[ASGIApp], ASGIApp] | None = None) -> ASGIApp:
    """The whole application, behind its gate. around: what stands between the two, and sees only whoever has a key."""
    routes = Routes(service)
    app = Starlette(
        routes=[
            Route("/health", routes.health),
            Route("/metrics", routes.metrics),
            Route("/v1/models", routes.models),
            Route("/v1/teacher", routes.teacher),
            Route("/v1/head/{sha256}", routes.head),
            Route("/v1/signals", routes.signals, methods=["POST"]),
            Route("/v1/completions", routes.completions, methods=["POST"]),
        ],
        exception_handlers={Refused: _refusal},
    )
    return Gate(app if around is None else around(app), keys, service.limits, service.metrics)


class Gate:
    """In front of everything: 401 without a key, 429 when too many are inside, and nobody stays beyond the deadline."""

    def __init__(self, app: ASGIApp, keys: KeyRing, limits: Limits, metrics: Metrics):
        self._app, self._keys, self._limits, self._metrics = app, keys, limits, metrics
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. Anything but HTTP is refused."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        started, status = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, counted)
        except ClientDisconnect:
            status = status or 499
        except TimeoutError:
            if not status:
                late = Refused(504, "the deadline passed: ask for fewer rows at once", retry_after=1)
                await _said(late)(scope, receive, counted)
        finally:
            route = scope["path"] if scope["path"] in _ROUTES else "other"
            self._metrics.add("requests_total", route=route, status=str(status or 499))
            self._metrics.took(time.monotonic() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/live":
            await PlainTextResponse("alive\n")(scope, receive, send)
        elif not self._keys.knows(_offered(scope)):
            no = JSONResponse(_body(401, "a key is needed: Authorization: Bearer KEY"), 401)
            no.headers["WWW-Authenticate"] = "Bearer"
            await no(scope, receive, send)
        elif self._inside >= self._limits.max_concurrent:
            await _said(Refused(429, "too many requests at once", retry_after=1))(scope, receive, send)
        else:
            self._inside += 1
            try:
                async with asyncio.timeout(self._limits.deadline_s):
                    await self._app(scope, receive, send)
            finally:
                self._inside -= 1


class Routes:
    """What is behind the gate."""

    def __init__(self, service: Service):
        self._service, self._limits = service, service.limits

    async def health(self, request: Request) -> Response:
        """The service answers, and how much waits."""
        gauges = {name: gauge() for name, gauge in self._service.metrics.gauges.items()}
        return JSONResponse({"status": "serving", "teacher": self._service.facts.identity.voice.teacher, **gauges})

    async def metrics(self, request: Request) -> Response:
        """Counts for Prometheus."""
        return PlainTextResponse(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The one model, as the OpenAI interface lists models."""
        entry = {"id": self._service.facts.model, "object": "model", "created": 0, "owned_by": "potstill"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def teacher(self, request: Request) -> Response:
        """Who teaches."""
        return JSONResponse(self._service.facts.as_json())

    async def head(self, request: Request) -> Response:
        """The head, by its hash."""
        return self._sent(self._service.head_named(request.path_params["sha256"]))

    async def signals(self, request: Request) -> Response:
        """A question in a frame, a signal in a frame."""
        frame = self._service.decoded(await self._read(request))
        return self._sent(await _waited(request, self._service.answer(frame)))

    async def completions(self, request: Request) -> Response:
        """Text, and log-probabilities."""
        writer = self._service.completions
        if writer is None:
            raise Refused(404, "this teacher is no causal language model: it writes no text")
        try:
            body = json.loads(await self._read(request))
        except (ValueError, RecursionError) as error:
            raise Refused(422, "the body is no JSON") from error
        asked = writer.read(body)
        choices = []
        for index, one in enumerate(asked):
            tokens = len(one.tokens) + one.max_tokens
            job = self._service.batching.run(lambda over, one=one, index=index: writer.write(one, index, over), tokens)
            choices.append(await _waited(request, job))
        written = sum(len(choice.pop("_tokens")) for choice in choices)
        return JSONResponse(writer.reply(asked, choices, written))

    async def _read(self, request: Request) -> bytearray:
        """The body, never more of it than is taken."""
        most = self._limits.max_body_bytes
        announced = request.headers.get("content-length", "0")
        body = bytearray()
        if not announced.isdecimal() or len(announced) > 20 or int(announced) > most:
            raise Refused(413, f"the body has more than {most} bytes: ask in smaller batches")
        async for part in request.stream():
            body += part
            if len(body) > most:
                raise Refused(413, f"the body has more than {most} bytes: ask in smaller batches")
        return body

    def _sent(self, frame: Frame) -> Response:
        buffers = encode(frame)
        size = sum(len(buffer) for buffer in buffers)
        self._service.metrics.add("reply_bytes_total", size)
        return StreamingResponse(_pieces(buffers), media_type=FRAME_TYPE, headers={"Content-Length": str(size)})


async def _pieces(buffers: list[bytes | memoryview]) -> AsyncIterator[bytes]:
    for buffer in buffers:
        for start in range(0, len(buffer), _PIECE):
            yield bytes(buffer[start : start + _PIECE])


async def _waited(request: Request, future: Future[T]) -> T:
    """The result; when the asker goes away or the deadline passes, the question is taken back."""
    result = asyncio.wrap_future(future)
    gone = asyncio.create_task(_disconnected(request.receive))
    try:
        await asyncio.wait({result, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise ClientDisconnect
        return result.result()
    finally:
        future.cancel()
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def _disconnected(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _offered(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return bytes(value[7:].strip())
    return b""


def _body(status: int, reason: str) -> dict[str, Any]:
    return {"error": {"message": reason, "type": "refused", "code": status}}


def _said(no: Refused) -> JSONResponse:
    headers = {} if no.retry_after is None else {"Retry-After": str(math.ceil(no.retry_after))}
    return JSONResponse(_body(no.status, no.reason), no.status, headers=headers)


async def _refusal(request: Request, no: Exception) -> Response:
    assert isinstance(no, Refused)
    return _said(no)
