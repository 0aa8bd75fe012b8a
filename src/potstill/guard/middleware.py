"""The guard before somebody's own API: ASGI middleware that looks on, and changes nothing unless responses are named.

app = GuardMiddleware(app, on_finding=lambda finding: logger.warning("%s", finding.as_json()))
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from potstill.core.finding import Finding
from potstill.data.quarantine import BadRow
from potstill.data.rows import Line
from potstill.guard.detector import MOST_ACCOUNTS, Detector, Model, shipped, shipped_pools
from potstill.guard.logformats import NAMES, Query, parse_openai
from potstill.guard.querylog import DAY
from potstill.guard.response import DELAY_S, Action, coarsened, steps

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LARGEST_BODY = 2**20
"""Of a request's body no more is kept; what is longer passes through unseen and is counted."""


class GuardMiddleware:
    """Sees OpenAI-style request bodies. The account is a fingerprint of `account_header`, or else the client's address.

    responses: what is done about an account for the rest of the day on which it was accused; of `response.LADDER`, none
    unless named. `watermark` asks the application to: it finds the word in `scope["state"]["potstill.guard"]`.
    unseen: requests with a body that could not be read as a request to a model.
    """

    def __init__(
        self,
        app: Application,
        on_finding: Callable[[Finding], None],
        *,
        model: Model | None = None,
        account_header: str = "authorization",
        responses: Sequence[str] = (),
    ):
        self.app, self.on_finding = app, on_finding
        self.detector = Detector(model or shipped(), shipped_pools())
        self.unseen = 0
        self._header, self._responses = account_header.lower().encode(), tuple(responses)
        steps(0.0, 0.0, self._responses)  # an unknown one is refused at once
        self._accused = Accused()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass everything on; look once the body is complete."""
        if scope["type"] != "http" or scope.get("method") != "POST":
            await self.app(scope, receive, send)
        elif set(self._responses) - {"observe"}:
            await self._answered(scope, receive, send)
        else:
            await self.app(scope, self._watched(scope, receive), send)

    def _watched(self, scope: Message, receive: Receive) -> Receive:
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

        return watched

    async def _answered(self, scope: Message, receive: Receive, send: Send) -> None:
        """The request as the steps against its account leave it. It is read before the application sees it."""
        messages, kept = [], bytearray()
        while len(kept) <= LARGEST_BODY:
            messages.append(await receive())
            kept.extend(messages[-1].get("body", b""))
            if not messages[-1].get("more_body"):
                break
        query = self._look(scope, bytes(kept))
        taken = () if query is None else self._accused.steps(query, self._responses)
        if "refuse" in taken:
            await _refuse(send)
            return
        if "slow" in taken:
            await asyncio.sleep(DELAY_S)
        if "watermark" in taken:
            scope.setdefault("state", {})["potstill.guard"] = "watermark"
        if "coarsen" in taken:
            body = json.dumps(coarsened(json.loads(kept))).encode()
            messages = [{"type": "http.request", "body": body, "more_body": False}]
            length = (b"content-length", str(len(body)).encode())
            scope = {**scope, "headers": [h for h in scope["headers"] if h[0].lower() != length[0]] + [length]}

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, again, send)

    def _look(self, scope: Message, body: bytes) -> Query | None:
        header = dict(scope["headers"]).get(self._header, b"").decode("latin-1")
        who = {"api_key": header} if header else {"account": (scope.get("client") or ("unknown",))[0]}
        try:
            if len(body) > LARGEST_BODY:
                raise BadRow("body too long")
            # Who asks is not for the body to say: any such field in it is overruled by the row's.
            row = {"time": time.time(), "request": _anonymous(json.loads(body)), **who}
            query = parse_openai(Line(0, json.dumps(row).encode(), True))
        except (BadRow, ValueError, RecursionError):
            self.unseen += 1
            return None
        for found in self.detector.see(query):
            self._accused.add(found, query)
            self.on_finding(found)
        return query


class Accused:
    """Who is accused today, and how far above the limit; at most MOST_ACCOUNTS, the oldest goes first."""

    def __init__(self) -> None:
        self._scores: OrderedDict[tuple[str, int], float] = OrderedDict()

    def add(self, finding: Finding, query: Query) -> None:
        """Every account that the finding names, for the day of the query."""
        for account in finding.evidence.get("accounts", (finding.subject,)):
            above = finding.value - (finding.bound or 0.0)
            key = (account, int(query.time // DAY))
            self._scores[key] = max(above, self._scores.get(key, above))
        while len(self._scores) > MOST_ACCOUNTS:
            self._scores.popitem(last=False)

    def steps(self, query: Query, allowed: Sequence[str]) -> tuple[Action, ...]:
        """What is to be done about whoever sent the query."""
        above = self._scores.get((query.account, int(query.time // DAY)))
        return () if above is None else steps(above, 0.0, allowed)


def _anonymous(request: Any) -> Any:
    if not isinstance(request, dict):
        return request
    return {name: value for name, value in request.items() if name not in NAMES}


async def _refuse(send: Send) -> None:
    text = "too many requests of one kind today; ask the operator if this is an error"
    body = json.dumps({"error": {"message": text, "type": "refused", "code": 429}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body})
