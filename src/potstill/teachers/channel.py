"""How a teacher elsewhere is asked one thing: over HTTP, or over a stream. Both raise the same three errors, so whoever
asks does not care which it was."""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import httpx

from potstill.core.errors import InputError, SignalError
from potstill.teachers.patience import retry_after as seconds_of
from potstill.teachers.transport import SHARES, Stream, StreamClosed, connect, greet
from potstill.teachers.wire import PREFIX, Frame, decode, encode, frame_length

FRAME_TYPE = "application/x-potstill-frame"
CONNECT_S = 4.0


class Unanswered(Exception):
    """No answer this time; another time there may be one. retry_after: seconds, as the teacher said."""

    def __init__(self, reason: str, retry_after: float | None = None):
        self.retry_after = retry_after
        super().__init__(reason)


class Denied(Exception):
    """Asking again changes nothing: a wrong key, another teacher at this address, too large a question."""


@runtime_checkable
class Channel(Protocol):
    """One frame out, one frame back. Raises Unanswered, Denied, or SignalError for an answer that is no frame."""

    def call(self, frame: Frame, *, seconds: float) -> Frame:
        """The answer, within so many seconds in all."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where a teacher is, and what is needed to speak to it. limit: the largest answer taken, bytes. shared_bytes: of
    memory that a Unix socket's answers go through; larger ones go through the socket. ca: a file of certificates to
    trust in place of the system's."""

    url: str
    key: str = field(repr=False)
    limit: int = 2**30
    shared_bytes: int = 2**26
    ca: str | None = None

    def open(self) -> Channel:
        """A channel of the address's kind. Raises Unanswered, Denied."""
        return HttpChannel(self) if self.kind in ("http", "https") else StreamChannel(self)

    @property
    def kind(self) -> str:
        """The scheme."""
        return self.url.partition(":")[0]

    def context(self) -> ssl.SSLContext:
        """Certificates are checked, always. Raises InputError when the file holds none."""
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"{self.ca}: no certificates can be read there ({error}); correct teacher.ca") from error


class HttpChannel:
    """The plain way: through any proxy, and fast enough wherever the model is the bottleneck."""

    def __init__(self, address: Address):
        self._address = address
        verify = address.context() if address.kind == "https" else True
        # A little less than the service keeps a silent connection, so that none is used while it is being closed.
        pool = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=3)
        headers = {"Authorization": f"Bearer {address.key}", "Content-Type": FRAME_TYPE}
        self._client = httpx.Client(verify=verify, limits=pool, headers=headers, trust_env=False)

    def call(self, frame: Frame, *, seconds: float) -> Frame:
        """One request. The deadline is for all of it: a reply that trickles is cut off."""
        until = time.monotonic() + seconds
        method, path = "POST", "/v1/signals"
        if frame.kind == "describe":
            method, path = "GET", "/v1/teacher"
        elif frame.kind == "fetch-head":
            method, path = "GET", f"/v1/head/{frame.meta['sha256']}"
        content = b"".join(encode(frame)) if method == "POST" else None
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_S))
        url = self._address.url.rstrip("/") + path
        try:
            with self._client.stream(method, url, content=content, timeout=timeout) as response:
                body = self._read(response, until)
                self._refuse(response, body)
        except httpx.TimeoutException as error:
            raise Unanswered("no answer in time") from error
        except httpx.HTTPError as error:
            raise Unanswered(f"no answer ({type(error).__name__})") from error
        if frame.kind == "describe":
            return _described(body, response)
        return decode(body, limit=self._address.limit)

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _read(self, response: httpx.Response, until: float) -> bytearray:
        body = bytearray()
        for part in response.iter_raw():
            body += part
            if time.monotonic() > until:
                raise Unanswered("no whole answer in time")
            if len(body) > self._address.limit + 2**21:
                raise SignalError(f"the answer has more than {self._address.limit:,} bytes: ask for another form")
            if response.is_success and len(body) >= PREFIX.size and response.headers.get("content-type") == FRAME_TYPE:
                frame_length(body[: PREFIX.size], limit=self._address.limit)
        return body

    def _refuse(self, response: httpx.Response, body: bytearray) -> None:
        if response.status_code == 200:
            return
        try:
            reason = str(json.loads(body)["error"]["message"])[:300]
        except (ValueError, KeyError, TypeError, RecursionError):
            reason = "no reason that could be read"
        refuse(response.status_code, reason, seconds_of(response.headers.get("retry-after")))


def _described(body: bytearray, response: httpx.Response) -> Frame:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = response.headers.get("content-type", "nothing known")[:60]
        raise SignalError(f"what answers there is no teacher: it sends {kind}; check the address") from error
    if not isinstance(values, dict):
        raise SignalError("what answers there is no teacher: check the address")
    return Frame("description", values)


def refuse(status: int, reason: str, retry_after: float | None) -> None:
    """Raise what a status means. 408, 429 and 5xx may be otherwise next time; 422 says that no answer could be given to
    this question; all else is final."""
    if status in (408, 425, 429) or status >= 500:
        raise Unanswered(f"status {status}: {reason}", retry_after)
    if status == 422:
        raise SignalError(f"the teacher could not answer: {reason}")
    raise Denied(f"status {status}: {reason}")


class StreamChannel:
    """TCP, TLS or a Unix socket with shared memory. The frame received is good until the next call."""

    def __init__(self, address: Address):
        context = address.context() if address.kind == "tls" else None
        shared = address.shared_bytes if address.kind == "unix" and SHARES else 0
        try:
            connection = connect(address.url, seconds=CONNECT_S, context=context)
        except OSError as error:
            raise Unanswered(f"no connection ({error.strerror or type(error).__name__})") from error
        try:
            self._stream: Stream = greet(
                connection, address.key, shared_bytes=shared, limit=address.limit, seconds=CONNECT_S
            )
        except (StreamClosed, TimeoutError) as error:
            connection.close()
            raise Unanswered(str(error) or "no greeting in time") from error

    def call(self, frame: Frame, *, seconds: float) -> Frame:
        """One question. After any error the stream is closed: what comes next could belong to another one."""
        try:
            self._stream.send(frame, seconds=seconds)
            reply = self._stream.receive(seconds=seconds)
        except (StreamClosed, TimeoutError) as error:
            self.close()
            raise Unanswered(str(error) or "no answer in time") from error
        except SignalError:
            self.close()
            raise
        if reply.kind == "refused":
            status, after = reply.meta.get("status"), reply.meta.get("retry_after")
            refuse(
                status if type(status) is int else 500,
                str(reply.meta.get("reason"))[:300],
                float(after) if isinstance(after, (int, float)) else None,
            )
        return reply

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
