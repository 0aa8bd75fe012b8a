"""What a teacher service answers, whichever way it is asked: who it is, its head, and signals."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from potstill.core.errors import SignalError
from potstill.teachers.batching import Batching
from potstill.teachers.completions import Completions
from potstill.teachers.limits import Limits, Refused
from potstill.teachers.metrics import Metrics
from potstill.teachers.question import KIND, Facts, read
from potstill.teachers.wire import Frame, decode


@dataclass(frozen=True, slots=True)
class Service:
    """head: the frame that carries it, for language models. completions: for tools that ask for text."""

    facts: Facts
    batching: Batching
    limits: Limits
    metrics: Metrics
    head: Frame | None = None
    completions: Completions | None = None

    def answer(self, frame: Frame) -> Future[Frame]:
        """`describe`, `fetch-head` or `question`. Raises Refused."""
        if frame.kind == "describe":
            return _ready(Frame("description", self.facts.as_json()))
        if frame.kind == "fetch-head":
            return _ready(self.head_named(str(frame.meta.get("sha256"))))
        if frame.kind != KIND:
            raise Refused(422, f"a frame of kind describe, fetch-head or {KIND} is answered")
        return self.batching.submit(read(frame, self.facts, self.limits))

    def head_named(self, sha256: str) -> Frame:
        """The head with this hash; a name is no path. Raises Refused (404)."""
        if self.head is None or self.facts.head is None or sha256 != self.facts.head.sha256:
            raise Refused(404, "this teacher has no head with that hash")
        return self.head

    def decoded(self, body: bytes | bytearray) -> Frame:
        """The frame in a body. Raises Refused (422)."""
        try:
            return decode(body, limit=self.limits.max_body_bytes)
        except SignalError as error:
            raise Refused(422, "the body is no frame that this version reads") from error


def _ready(frame: Frame) -> Future[Frame]:
    future: Future[Frame] = Future()
    future.set_result(frame)
    return future
