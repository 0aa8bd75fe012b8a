"""One model, many askers: rows of all of them wait in buckets by length, and whenever the model is free the bucket with
the oldest row gives as many as one forward pass holds.

Rows and not questions are what is scheduled, so a long question does not keep a short one waiting for its end, and rows
of several students share a pass. The price: in which company a row is read depends on the moment, and floating-point
sums then differ in their last bits. A run that must repeat bit for bit learns from a store.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import torch

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.teachers.codec import pack, rows_of
from potstill.teachers.limits import Limits, Refused
from potstill.teachers.metrics import Metrics
from potstill.teachers.question import Question
from potstill.teachers.wire import Frame

SHORTEST_BUCKET = 16
# Where a row waits: the bucket of its length, and what must be alike in one pass. Jobs are done one by one.
_Place = tuple[int, str]
_JOBS: _Place = (0, "")


@dataclass(slots=True, eq=False)
class _Waiting:
    """A question under way. rows: their frames, as far as they are there. job: what is run in place of a forward pass
    over rows, for a completion."""

    future: Future[Any]
    until: float
    tokens: int
    question: Question | None = None
    job: Callable[[Callable[[], bool]], Any] | None = None
    rows: list[Frame | None] = field(default_factory=list)

    def over(self) -> bool:
        """Nobody waits for it any more."""
        return self.future.done() or time.monotonic() > self.until


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    waiting: _Waiting
    index: int
    length: int
    since: float


class Batching:
    """The queue and the one thread that the model runs in."""

    def __init__(self, teacher: Teacher, limits: Limits, metrics: Metrics):
        self._teacher, self._limits, self._metrics = teacher, limits, metrics
        self._buckets: dict[_Place, deque[_Row]] = {}
        self._under_way: set[_Waiting] = set()
        self._tokens = 0
        self._rate = 1000.0  # tokens per second, a running mean; only for Retry-After
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True, name="model")
        metrics.gauges |= {
            "questions_under_way": lambda: len(self._under_way),
            "tokens_waiting": lambda: self._tokens,
        }

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def submit(self, question: Question) -> Future[Frame]:
        """The answer to come. Cancelling the future takes the rows that wait out of the queue. Raises Refused (429)."""
        future: Future[Frame] = Future()
        until = time.monotonic() + self._limits.deadline_s
        waiting = _Waiting(future, until, question.tokens, question, rows=[None] * len(question.lengths))
        rows = [_Row(waiting, index, length, time.monotonic()) for index, length in enumerate(question.lengths)]
        alike = json.dumps([question.packing.as_meta(), question.batch.token_types_BL is not None])
        self._enter(waiting, [((_bucket(row.length), alike), row) for row in rows])
        return future

    def run(self, job: Callable[[Callable[[], bool]], Any], tokens: int) -> Future[Any]:
        """Run something else with the model, in its thread. job: is handed a look at whether anybody still waits.
        Raises Refused (429)."""
        future: Future[Any] = Future()
        waiting = _Waiting(future, time.monotonic() + self._limits.deadline_s, tokens, job=job)
        self._enter(waiting, [(_JOBS, _Row(waiting, 0, tokens, time.monotonic()))])
        return future

    def close(self, *, seconds: float) -> None:
        """Take no more, and give what is under way that long to end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)
        for waiting in list(self._under_way):
            _fail(waiting, Refused(503, "the teacher is stopping", retry_after=5))

    def _enter(self, waiting: _Waiting, rows: Sequence[tuple[_Place, _Row]]) -> None:
        with self._changed:
            if self._closed:
                raise Refused(503, "the teacher is stopping", retry_after=5)
            full = len(self._under_way) >= self._limits.max_queued
            if full or (self._tokens and self._tokens + waiting.tokens > self._limits.max_queued_tokens):
                after = min(max(self._tokens / self._rate, 1.0), self._limits.deadline_s)
                raise Refused(429, "too many questions are waiting: ask again later", retry_after=after)
            self._under_way.add(waiting)
            self._tokens += waiting.tokens
            for place, row in rows:
                self._buckets.setdefault(place, deque()).append(row)
            self._changed.notify_all()
        waiting.future.add_done_callback(lambda _: self._leave(waiting))

    def _leave(self, waiting: _Waiting) -> None:
        """Answered, failed or taken back: nothing of it stays in memory, whatever the model is busy with."""
        with self._changed:
            if waiting not in self._under_way:
                return
            self._under_way.discard(waiting)
            self._tokens -= waiting.tokens
            for place, rows in list(self._buckets.items()):
                kept = deque(row for row in rows if row.waiting is not waiting)
                if kept:
                    self._buckets[place] = kept
                else:
                    del self._buckets[place]
            waiting.rows = []
        if waiting.future.cancelled():
            self._metrics.add("cancelled_total")

    def _take(self) -> list[_Row] | None:
        """Rows for one pass, of one bucket, oldest first; None when all is over."""
        with self._changed:
            while not self._buckets:
                if self._closed:
                    return None
                self._changed.wait()
            place = min(self._buckets, key=lambda place: self._buckets[place][0].since)
            rows, taken, longest = self._buckets[place], [], 0
            while rows:
                longest = max(longest, rows[0].length)
                if taken and (longest * (len(taken) + 1) > self._limits.max_batch_tokens or place == _JOBS):
                    break
                taken.append(rows.popleft())
            if not rows:
                del self._buckets[place]
            return taken

    def _run(self) -> None:
        while (rows := self._take()) is not None:
            for late in {row.waiting for row in rows if row.waiting.over()}:
                _fail(late, Refused(504, "the deadline passed: ask for fewer rows at once", retry_after=1))
            rows = [row for row in rows if not row.waiting.future.done()]
            if rows:
                self._pass(rows)

    def _pass(self, rows: Sequence[_Row]) -> None:
        started = time.monotonic()
        try:
            job = rows[0].waiting.job
            if job is not None:
                _finish(rows[0].waiting, job(rows[0].waiting.over))
            else:
                self._forward(rows)
        except Exception as error:  # whatever a model can raise must reach whoever waits, and the next one be served
            self._failed(rows, error)
        seconds, tokens = time.monotonic() - started, sum(row.length for row in rows)
        self._rate += 0.1 * (tokens / max(seconds, 1e-6) - self._rate)
        self._metrics.add("forwards_total")
        self._metrics.add("forward_seconds_total", seconds)
        self._metrics.add("rows_total", len(rows))
        self._metrics.add("tokens_total", tokens)
        self._metrics.add("padding_total", max(row.length for row in rows) * len(rows) - tokens)

    def _failed(self, rows: Sequence[_Row], error: Exception) -> None:
        """Company that failed together is asked again one by one: the fault of one is not that of all."""
        company = list(dict.fromkeys(row.waiting for row in rows))
        if len(company) > 1:
            for waiting in company:
                self._pass([row for row in rows if row.waiting is waiting])
            return
        no = error if isinstance(error, Refused) else Refused(500, f"the model failed ({type(error).__name__})")
        _fail(company[0], Refused(422, str(error)) if isinstance(error, SignalError) else no)

    def _forward(self, rows: Sequence[_Row]) -> None:
        question = rows[0].waiting.question
        assert question is not None, "rows belong to a question"
        batch = _gathered(rows)
        signal = self._teacher.signal(batch, question.packing.want)
        frame = pack(signal, batch, question.packing)
        if len({row.waiting for row in rows}) == 1 and len(rows) == len(rows[0].waiting.rows):
            _finish(rows[0].waiting, frame)
            return
        for row, answer in zip(rows, rows_of(frame), strict=True):
            waiting = row.waiting
            if waiting.future.done():
                continue
            waiting.rows[row.index] = answer
            if all(part is not None for part in waiting.rows):
                _finish(waiting, joined([part for part in waiting.rows if part is not None]))


def _bucket(length: int) -> int:
    """The next power of two: no row is padded to more than twice its length."""
    return max(SHORTEST_BUCKET, 1 << (length - 1).bit_length())


def _gathered(rows: Sequence[_Row]) -> Batch:
    """A batch of these rows, as long as the longest."""
    longest = max(row.length for row in rows)
    questions = [row.waiting.question for row in rows]
    batches = [(one.batch, row.index) for one, row in zip(questions, rows, strict=True) if one is not None]
    one_position = questions[0] is not None and questions[0].one_position

    def stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        found = tensors[0].new_zeros(len(tensors), longest)
        for place, tensor in enumerate(tensors):
            width = min(longest, len(tensor))
            found[place, :width] = tensor[:width]
        return found

    soft = [batch.weights["soft"][index] for batch, index in batches]
    weights = torch.stack(soft) if one_position else stacked(soft)
    types = [batch.token_types_BL[index] for batch, index in batches if batch.token_types_BL is not None]
    return Batch(
        ids=tuple(batch.ids[index] for batch, index in batches),
        tokens_BL=stacked([batch.tokens_BL[index] for batch, index in batches]),
        attention_BL=stacked([batch.attention_BL[index] for batch, index in batches]),
        targets_BT=torch.zeros(weights.shape, dtype=torch.long),
        weights={"soft": weights, "hard": torch.zeros_like(weights)},
        token_types_BL=stacked(types) if len(types) == len(rows) else None,
    )


def joined(frames: Sequence[Frame]) -> Frame:
    """Frames of single rows as one of all of them."""
    meta = dict(frames[0].meta)
    for name in ("rows", "asked", "read"):
        meta[name] = [value for frame in frames for value in frame.meta[name]]
    tensors = {name: torch.cat([frame.tensors[name] for frame in frames]) for name in frames[0].tensors}
    return Frame(frames[0].kind, meta, tensors)


def _finish(waiting: _Waiting, result: Any) -> None:
    with contextlib.suppress(InvalidStateError):  # taken back in the meantime
        waiting.future.set_result(result)


def _fail(waiting: _Waiting, no: Refused) -> None:
    with contextlib.suppress(InvalidStateError):
        waiting.future.set_exception(no)
