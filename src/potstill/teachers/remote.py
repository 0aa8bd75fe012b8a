"""A teacher that is elsewhere: one or several services that speak with the same voice.

Questions about coming batches are sent ahead, as many as are allowed, so that the teacher works while the student does.
An answer is used when it is provably the answer to this question by this teacher, or not at all: everything else is
counted, asked again elsewhere, and after so many ends the run. Nobody there is no error but a pause (`TeacherAway`).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.core.batch import Batch
from potstill.core.errors import SignalError, TeacherAway, TeacherError
from potstill.core.signal import Signal, Voice, Want
from potstill.core.task import Task
from potstill.teachers.channel import Address, Channel, Denied, Unanswered
from potstill.teachers.codec import unpack
from potstill.teachers.forms import FORMS, Form
from potstill.teachers.head import HeadShelf, KeptHead
from potstill.teachers.identity import Identity
from potstill.teachers.packing import Packing
from potstill.teachers.pool import Pool, Source
from potstill.teachers.question import ask
from potstill.teachers.stored import as_wanted
from potstill.teachers.wire import Frame

_LOOK = 0.1  # seconds between two looks at the stop flag
PROBE_S = 10.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How a remote teacher is asked. form: None takes what the objective needs (`form_for`). prefetch: questions sent
    ahead. timeout_s: for one answer. refuse_after: bad answers that end the run. give_up_after_s: how long a run waits
    when every teacher is gone; None: for ever."""

    form: Form | None = None
    prefetch: int = 2
    timeout_s: float = 120.0
    refuse_after: int = 20
    give_up_after_s: float | None = None


def form_for(want: Want, *, headed: bool) -> Form:
    """The smallest form that serves: last states at half precision are nearer to the truth than whole logits at half
    precision, at a small part of their bytes (docs/results/wire.md). headed: the teacher has a head to send."""
    if not want.logits and not want.headed:
        return "layers-fp32"
    if want.top_k is not None:
        return "top-k"
    return "hidden-bf16" if headed else "logits"


class RemoteTeacher:
    """A `Teacher` over a pool. poll: called while an answer is waited for; may raise to stop."""

    def __init__(
        self,
        addresses: Sequence[Address],
        terms: Terms,
        *,
        task: Task,
        heads: Path,
        weights: Sequence[float] | None = None,
        poll: Callable[[], None] = lambda: None,
    ):
        """Asks every address who is there. heads: the folder in which the head is kept.

        Raises TeacherError when none answers, one denies, or two speak with different voices.
        """
        given = weights or [1.0] * len(addresses)
        self._pool = Pool([Source(one, weight) for one, weight in zip(addresses, given, strict=True)])
        self._terms, self._task, self._poll = terms, task, poll
        self._closed = False
        self._sent: OrderedDict[int, tuple[Batch, Want, Future[Signal]]] = OrderedDict()
        self._slots = threading.Semaphore(max(terms.prefetch, 1))
        self._refusals = 0
        self._fatal: TeacherError | None = None
        self.facts = self._introduced(PROBE_S)
        self.identity = Identity.from_meta(self.facts["identity"])
        self._shelf, self._head = HeadShelf(heads), None
        self._head_lock = threading.Lock()

    @property
    def voice(self) -> Voice:
        """The voice all of them speak with."""
        return self.identity.voice

    @property
    def counts(self) -> dict[str, int]:
        """Questions that were answered, unanswered, and whose answers were refused."""
        return {name: self._pool.count(name) for name in ("answered", "unanswered", "refused")}

    def expect(self, batch: Batch, want: Want) -> None:
        """Ask about a batch whose signal will be wanted soon."""
        future: Future[Signal] = Future()
        self._sent[id(batch)] = (batch, want, future)
        packing = self.packing(want)
        work = threading.Thread(target=self._work, args=(batch, packing, future), daemon=True, name="ask")
        work.start()

    def forget(self) -> None:
        """Whatever was asked ahead is not wanted any more."""
        for _, _, future in self._sent.values():
            future.cancel()
        self._sent.clear()

    def signal(self, batch: Batch, want: Want) -> Signal:
        """The answer about a batch, asked for now unless it was before.

        Raises TeacherAway when no teacher is there, TeacherError when one answers wrongly too often or is another.
        """
        known = self._sent.get(id(batch))
        if known is None or known[0] is not batch or known[1] != want:
            self.expect(batch, want)
        future = self._sent.pop(id(batch))[2]
        while True:
            self._poll()
            try:
                signal = future.result(timeout=_LOOK)
            except Late:
                continue
            return as_wanted(signal, batch, want)

    def close(self) -> None:
        """Ask no more, and hang up."""
        self._closed = True
        self.forget()
        for source in self._pool.sources:
            while source.free:
                source.free.pop().close()

    def packing(self, want: Want) -> Packing:
        """The terms on which this want is answered. Raises TeacherError for a form that is not offered."""
        form = self._terms.form or form_for(want, headed=self.facts.get("head") is not None)
        if form not in self.facts["forms"]:
            offered = ", ".join(self.facts["forms"])
            raise TeacherError(f"the teacher does not send the form {form}; it sends: {offered}. Set teacher.form")
        headed = FORMS[form].says == "hidden"
        top_k = FORMS[form].says == "top-k"
        if top_k and want.top_k is None:
            raise SignalError("form top-k needs objective.top_k: set it, or take another teacher.form")
        head = self.head() if headed else None
        sparse = want.top_k if top_k else None
        temperature = want.temperature if top_k else 1.0
        return Packing(form, self.identity, head, sparse, temperature, want.hidden_layers, want.attention_layers)

    def head(self) -> KeptHead:
        """The teacher's head: from the folder, or fetched once. Raises TeacherAway, TeacherError, SignalError."""
        with self._head_lock:
            if self._head is None:
                sha256 = str(self.facts.get("head"))
                self._head = self._shelf.get(sha256, identity=self.identity, fetch=self._fetch)
            return self._head

    def _fetch(self, sha256: str) -> Frame:
        """A copy: the head stays, and what came over a stream lies where the next answer will."""

        def copied(frame: Frame) -> Frame:
            return Frame(frame.kind, frame.meta, {name: tensor.clone() for name, tensor in frame.tensors.items()})

        return self._asked(Frame("fetch-head", {"sha256": sha256}), copied)

    def _work(self, batch: Batch, packing: Packing, future: Future[Signal]) -> None:
        with self._slots:
            if future.cancelled():
                return
            try:
                frame = ask(batch, packing)
                signal = self._asked(frame, lambda reply: self._read(reply, batch, packing), future.cancelled)
            except BaseException as error:  # whoever waits for the future must hear of it, whatever it is
                _settle(future, error=error)
            else:
                _settle(future, result=signal)

    def _read(self, reply: Frame, batch: Batch, packing: Packing) -> Signal:
        """The signal in an answer. Another voice does not turn into ours by asking again: that ends the run."""
        if reply.kind == "signal" and (found := Identity.from_meta(reply.meta.get("teacher"))) != self.identity:
            self._fatal = TeacherError(_different(self.identity, found, "the answer"))
            raise self._fatal
        return unpack(reply, batch, packing)

    def _asked(self, frame: Frame, used: Callable[[Frame], Any], unwanted: Callable[[], bool] = lambda: False) -> Any:
        """What `used` makes of the first answer that it accepts; it raises SignalError for those it refuses."""
        while True:
            source = self._pool.take(lambda: self._closed or unwanted())
            if self._fatal is not None:
                raise self._fatal
            if source is None:
                raise self._away()
            channel: Channel | None = None
            try:
                channel = source.free.pop() if source.free else source.address.open()
                result = used(channel.call(frame, seconds=self._terms.timeout_s))
            except Unanswered as error:
                _drop(channel)
                self._pool.failed(source, str(error), error.retry_after)
            except Denied as error:
                _drop(channel)
                self._pool.failed(source, str(error))
                self._fatal = TeacherError(f"{source.address.url}: {error}")
                raise self._fatal from error
            except SignalError as error:
                _drop(channel)
                self._pool.refused(source, str(error))
                self._refused(source, error)
            else:
                source.free.append(channel)
                self._pool.succeeded(source)
                return result

    def _refused(self, source: Source, error: SignalError) -> None:
        self._refusals += 1
        if self._refusals > self._terms.refuse_after:
            self._fatal = TeacherError(
                f"{source.address.url}: {error}. {self._refusals} answers were refused in this run, more than "
                f"teacher.refuse_after = {self._terms.refuse_after}: look at the teacher, then go on with the run"
            )
            raise self._fatal from error

    def _away(self) -> TeacherAway:
        reasons = "; ".join(f"{one.address.url}: {one.why}" for one in self._pool.sources)
        return TeacherAway(f"no teacher answers ({reasons})", self.wait)

    def wait(self, poll: Callable[[], None]) -> None:
        """Until one of the teachers says who it is, and is the same. Raises TeacherError when that takes too long, or
        another one answers."""
        started = time.monotonic()
        while True:
            poll()
            for source in self._pool.sources:
                if source.not_before <= time.monotonic() and self._same(source):
                    self._pool.mend(source)
                    return
            limit = self._terms.give_up_after_s
            if limit is not None and time.monotonic() - started > limit:
                raise TeacherError(f"{self._away()}, for {limit:.0f} seconds: start a teacher, then go on with the run")
            time.sleep(_LOOK)

    def _same(self, source: Source) -> bool:
        try:
            found = self._describe(source, PROBE_S)
        except (Unanswered, SignalError) as error:
            source.why = str(error)
            self._pool.wait_longer(source)
            return False
        except Denied as error:
            raise TeacherError(f"{source.address.url}: {error}") from error
        self._refuse_another(found, source)
        return True

    def _refuse_another(self, found: dict[str, Any], source: Source) -> None:
        if (other := Identity.from_meta(found.get("identity"))) != self.identity:
            raise TeacherError(_different(self.identity, other, source.address.url))

    def _describe(self, source: Source, seconds: float) -> dict[str, Any]:
        channel = source.address.open()
        try:
            return dict(channel.call(Frame("describe"), seconds=seconds).meta)
        finally:
            channel.close()

    def _introduced(self, seconds: float) -> dict[str, Any]:
        """What the teachers say of themselves; those that are silent now may come later."""
        facts: dict[str, Any] | None = None
        for source in self._pool.sources:
            self._poll()
            try:
                found = self._describe(source, seconds)
                Identity.from_meta(found.get("identity"))
            except (Unanswered, SignalError) as error:
                source.why = str(error)
                self._pool.wait_longer(source)
                continue
            except Denied as error:
                raise TeacherError(f"{source.address.url}: {error}") from error
            if facts is None:
                facts, self.identity = found, Identity.from_meta(found["identity"])
            else:
                self._refuse_another(found, source)
        if facts is None:
            raise TeacherError(f"{self._away()}: start one with `potstill serve`, or correct teacher.urls")
        if facts.get("task") != self._task or not isinstance(facts.get("forms"), list):
            raise TeacherError(f"the teacher does {facts.get('task')} and this run {self._task}: name another teacher")
        return facts


def _different(ours: Identity, theirs: Identity, place: str) -> str:
    try:
        ours.refuse_another(theirs, place)
    except SignalError as error:
        return str(error)
    return f"{place} is by another teacher"


def _drop(channel: Channel | None) -> None:
    if channel is not None:
        channel.close()


def _settle(future: Future[Signal], *, result: Signal | None = None, error: BaseException | None = None) -> None:
    if future.set_running_or_notify_cancel():
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]
