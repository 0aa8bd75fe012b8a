"""Questions to somebody else's HTTP server, and what counts as an answer.

Three things can go wrong, and each has its own end. The server is away or busy (refused, timed out, reset, 429, 5xx):
asked again, after a wait that all questions share. It refuses this question (400, 413, 422): told to the caller, who
knows what was asked. It answers with something else (HTML, half of a JSON, another model): refused, counted under a
reason, asked again, until there were too many. A reply is never read past its cap, and one deadline covers all of it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from potstill.core.errors import EndpointError
from potstill.teachers.endpoint_settings import EndpointSettings
from potstill.teachers.key import scrubbed
from potstill.teachers.patience import retry_after, wait_before

AWAY = {408, 425, 429, 500, 502, 503, 504, 529}
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
CONNECT_SECONDS = 10.0
EXCERPT = 200
# The code of a refusal that a model in this process gives; a server has words of its own.
CONTROL_TOKEN = "control_token"
PROBE_ATTEMPTS = 3
NEXT = "nothing that was saved is lost; run the same command again when it is back"

Answer = TypeVar("Answer")
Read = Callable[[Mapping[str, Any]], Answer]


class BadReply(Exception):
    """A reply that is not what was asked for. reason: a fixed phrase that is counted; detail: what this one held."""

    def __init__(self, reason: str, detail: str = ""):
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class Refusal(Exception):
    """The server does not take this question. code: the error code of its JSON, "" without one."""

    def __init__(self, status: int, code: str, message: str):
        self.status, self.code, self.message = status, code, message
        super().__init__(f"{status} {message}")


class _Away(Exception):
    """Worth another attempt. named: the wait that the server asked for, in seconds."""

    def __init__(self, reason: str, named: float | None = None):
        self.named = named
        super().__init__(reason)


class Client:
    """One endpoint, asked from one event loop.

    refused: bad replies by reason, over the client's whole life.
    """

    def __init__(self, settings: EndpointSettings, key: SecretStr | None = None):
        self.settings = settings
        self.refused: Counter[str] = Counter()
        self._key = key
        self._draw = random.Random()
        self._closed_until = 0.0
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(settings.timeout, connect=min(CONNECT_SECONDS, settings.timeout)),
            limits=httpx.Limits(max_connections=settings.concurrency + 1),
            # A proxy from the environment has no business between two programs of one machine.
            trust_env=urlsplit(settings.url).hostname not in LOOPBACK,
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(
        self, route: str, body: Mapping[str, Any] | None, read: Read[Answer], *, probe: bool = False
    ) -> Answer:
        """What `read` makes of the reply to POST `route` (GET without a body).

        read: raises BadReply for a reply that will not do. probe: it is not known whether the endpoint can answer this,
        so a bad reply is the caller's to judge (BadReply) and patience is short. Raises Refusal, and EndpointError when
        the endpoint is away for good, refuses the key, or gave too many bad replies.
        """
        most = min(PROBE_ATTEMPTS, self.settings.attempts) if probe else self.settings.attempts
        attempt = 0
        while True:
            await self._wait_until_open()
            attempt += 1
            try:
                return read(_parsed(await self._reply(route, body)))
            except (BadReply, _Away) as fault:
                if isinstance(fault, BadReply):
                    if probe:
                        raise
                    self._count(fault)
                else:
                    self._close_for(wait_before(attempt, fault.named, self._draw))
                if attempt >= most:
                    said = scrubbed(str(fault), self._key)
                    raise EndpointError(
                        f"{self.settings.url}: no answer in {attempt} attempts ({said}): {NEXT}"
                    ) from None

    def _count(self, fault: BadReply) -> None:
        self.refused[fault.reason] += 1
        if self.refused.total() > self.settings.max_bad_replies:
            counts = ", ".join(f"{reason}: {number}" for reason, number in self.refused.most_common())
            last = scrubbed(str(fault), self._key)
            raise EndpointError(
                f"{self.settings.url} answered wrongly {self.refused.total()} times, and max_bad_replies is "
                f"{self.settings.max_bad_replies} ({counts}; the last: {last}): look at what runs there"
            )

    def _close_for(self, seconds: float) -> None:
        """Nobody asks before this is over: the server turned one away, and would turn away the others too."""
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)

    async def _wait_until_open(self) -> None:
        while (left := self._closed_until - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _reply(self, route: str, body: Mapping[str, Any] | None) -> bytes:
        """The bytes of a reply with status 200."""
        url = self.settings.url.rstrip("/") + route
        try:
            async with (
                asyncio.timeout(self.settings.timeout),
                self._http.stream("GET" if body is None else "POST", url, json=body) as response,
            ):
                data = await self._read(response)
        except TimeoutError:
            raise _Away(f"no whole reply within {self.settings.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _Away(scrubbed(f"{type(error).__name__}: {error}", self._key)[:EXCERPT]) from None
        if response.status_code != 200:
            self._refuse(route, response, data)
        return data

    async def _read(self, response: httpx.Response) -> bytes:
        data, most = bytearray(), self.settings.max_reply_bytes
        async for part in response.aiter_bytes():
            data += part
            if len(data) > most:
                raise BadReply("longer than max_reply_bytes", f"{most:,} bytes were read and more were to come")
        return bytes(data)

    def _refuse(self, route: str, response: httpx.Response, data: bytes) -> None:
        status = response.status_code
        code, message = _complaint(data)
        said = scrubbed(message, self._key)
        if status in AWAY:
            named = retry_after(response.headers.get("retry-after"))
            if named is not None and named > self.settings.longest_wait:
                raise EndpointError(
                    f"{self.settings.url} asks to wait {named:,.0f} s, and longest_wait is "
                    f"{self.settings.longest_wait:g} s: {NEXT}"
                )
            raise _Away(f"{status} {said}".strip(), named)
        if status in (401, 403):
            raise EndpointError(f"{self.settings.url} refuses the key ({status} {said}): check key_env or key_file")
        if 300 <= status < 400:
            raise EndpointError(f"{self.settings.url} sends us elsewhere ({status}): give the final address as url")
        if status in (404, 405):
            raise EndpointError(
                f"{self.settings.url}{route} is not there ({status} {said}): check url (it ends in /v1) and model"
            )
        raise Refusal(status, code, said)


def _parsed(data: bytes) -> Mapping[str, Any]:
    if data.lstrip()[:1] == b"<":
        raise BadReply("HTML instead of JSON", "a proxy or a login page may stand before the endpoint")
    try:
        value = json.loads(data, parse_constant=_not_a_number)
    except (ValueError, RecursionError) as error:
        raise BadReply("not JSON", str(error)[:EXCERPT]) from None
    if not isinstance(value, dict):
        raise BadReply("not a JSON object", type(value).__name__)
    return value


def _not_a_number(word: str) -> Any:
    raise BadReply("a number that is none", f"{word} stands in the JSON")


def _complaint(data: bytes) -> tuple[str, str]:
    """Code and message of an error body, in the shapes that servers use; its beginning where it has no such shape."""
    try:
        value = json.loads(data)
        error = value.get("error", value)
        if isinstance(error, dict):
            message = error.get("message", error.get("detail", ""))
            return str(error.get("code") or error.get("type") or ""), str(message)[:EXCERPT]
        return "", str(error)[:EXCERPT]
    except (ValueError, AttributeError, RecursionError):
        return "", " ".join(data[:EXCERPT].decode("utf-8", "replace").split())
