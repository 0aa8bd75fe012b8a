"""The guard in front of somebody's own API: ASGI middleware that looks on and changes no byte of an answer.

app = GuardMiddleware(app, on_finding=lambda finding: logger.warning("%s", finding.as_json()))
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from potstill.core.finding import Finding
from potstill.data.quarantine import BadRow
from potstill.data.rows import Line
from potstill.guard.detector import Detector, Model, shipped
from potstill.guard.logformats import parse_openai

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LARGEST_BODY = 2**20
"""Of a request's body no more is kept; what is longer passes through unseen and is counted."""


class GuardMiddleware:
    """Sees OpenAI-style request bodies. The account is a fingerprint of `account_header`, or else the client's address.

    unseen: requests with a body that could not be read as a request to a model.
    """

    def __init__(
        self,
        app: Application,
        on_finding: Callable[[Finding], None],
        *,
        model: Model | None = None,
        account_header: str = "authorization",
    ):
        self.app, self.on_finding = app, on_finding
        self.detector = Detector(model or shipped())
        self.unseen = 0
        self._header = account_header.lower().encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass everything on; look once the body is complete."""
        if scope["type"] != "http" or scope.get("method") != "POST":
            await self.app(scope, receive, send)
            return
        kept = bytearray()

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                if len(kept) <= LARGEST_BODY:
                    kept.extend(message.get("body", b"")[: LARGEST_BODY + 1])
                if not message.get("more_body"):
                    self._look(scope, bytes(kept))
                    kept.clear()
            return message

        await self.app(scope, watched, send)

    def _look(self, scope: Message, body: bytes) -> None:
        header = dict(scope["headers"]).get(self._header, b"").decode("latin-1")
        who = {"api_key": header} if header else {"account": (scope.get("client") or ("unknown",))[0]}
        try:
            if len(body) > LARGEST_BODY:
                raise BadRow("body too long")
            request = json.loads(body)
            row = {"time": time.time(), "request": request, **who}
            query = parse_openai(Line(0, json.dumps(row).encode(), True))
        except (BadRow, ValueError, RecursionError):
            self.unseen += 1
            return
        if found := self.detector.see(query):
            self.on_finding(found)
