"""One thing asked of a pool of teachers until one of them answers well, and what is done about the others.

Where no answer came it is asked for again, elsewhere or later. A bad answer is counted, and some of them end the run.
Another teacher, or one that denies, ends it at once. When nobody is there it is said so (`TeacherAway`), with a way to
wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.core.errors import SignalError, TeacherAway, TeacherError
from potstill.core.task import Task
from potstill.teachers.channel import Address, Channel, Denied, Unanswered
from potstill.teachers.forms import Form
from potstill.teachers.identity import Identity
from potstill.teachers.pool import Pool, Source
from potstill.teachers.wire import Frame

LOOK_S = 0.1  # between two looks at the stop flag
PROBE_S = 4.0  # for a teacher to say who it is; a run that is stopped waits no longer


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


class Asking:
    """A pool, the voice it speaks with, and what went wrong so far. facts: what the teachers say of themselves."""

    def __init__(
        self,
        addresses: Sequence[Address],
        terms: Terms,
        *,
        task: Task,
        weights: Sequence[float] | None,
        poll: Callable[[], None],
    ):
        """Asks every address who is there. Raises TeacherError when none answers, one denies, or two differ."""
        given = weights or [1.0] * len(addresses)
        self.pool = Pool([Source(one, weight) for one, weight in zip(addresses, given, strict=True)])
        self.terms, self.closed = terms, False
        self.fatal: TeacherError | None = None
        self._task, self._refusals = task, 0
        self.facts = self._introduced(poll)
        self.identity = Identity.from_meta(self.facts["identity"])

    def close(self) -> None:
        """Ask no more, and hang up."""
        self.closed = True
        self.pool.hang_up()

    def ask(self, frame: Frame, used: Callable[[Frame], Any], unwanted: Callable[[], bool] = lambda: False) -> Any:
        """What `used` makes of the first answer that it accepts; it raises SignalError for those it refuses."""
        while True:
            source = self.pool.take(lambda: self.closed or unwanted())
            if self.fatal is not None:
                raise self.fatal
            if source is None:
                raise self.away()
            channel: Channel | None = None
            try:
                channel = self.pool.channel(source)
                result = used(channel.call(frame, seconds=self.terms.timeout_s))
            except Unanswered as error:
                _drop(channel)
                self.pool.failed(source, str(error), error.retry_after)
            except Denied as error:
                _drop(channel)
                self.pool.failed(source, str(error))
                self.fatal = TeacherError(f"{source.address.url}: {error}")
                raise self.fatal from error
            except SignalError as error:
                _drop(channel)
                self.pool.refused(source, str(error))
                self._refused(source, error)
            else:
                self.pool.succeeded(source, channel)
                return result

    def _refused(self, source: Source, error: SignalError) -> None:
        self._refusals += 1
        if self._refusals > self.terms.refuse_after:
            self.fatal = TeacherError(
                f"{source.address.url}: {error}. {self._refusals} answers were refused in this run, more than "
                f"teacher.refuse_after = {self.terms.refuse_after}: look at the teacher, then go on with the run"
            )
            raise self.fatal from error

    def away(self) -> TeacherAway:
        """Nobody answers, and why."""
        reasons = "; ".join(f"{one.address.url}: {one.why}" for one in self.pool.sources)
        return TeacherAway(f"no teacher answers ({reasons})", self.wait)

    def wait(self, poll: Callable[[], None]) -> None:
        """Until one of the teachers says who it is, and is the same. Raises TeacherError when that takes too long, or
        another one answers."""
        started = time.monotonic()
        while True:
            poll()
            for source in self.pool.sources:
                if source.not_before <= time.monotonic() and self._same(source):
                    self.pool.mend(source)
                    return
            limit = self.terms.give_up_after_s
            if limit is not None and time.monotonic() - started > limit:
                raise TeacherError(f"{self.away()}, for {limit:.0f} seconds: start a teacher, then go on with the run")
            time.sleep(LOOK_S)

    def _same(self, source: Source) -> bool:
        try:
            found = self._describe(source)
        except (Unanswered, SignalError) as error:
            source.why = str(error)
            self.pool.wait_longer(source)
            return False
        except Denied as error:
            raise TeacherError(f"{source.address.url}: {error}") from error
        self.refuse_another(Identity.from_meta(found.get("identity")), source.address.url)
        return True

    def refuse_another(self, other: Identity, place: str) -> None:
        """Another voice does not turn into ours by asking again: that ends the run. Raises TeacherError."""
        if other != self.identity:
            self.fatal = TeacherError(_different(self.identity, other, place))
            raise self.fatal

    def _describe(self, source: Source) -> dict[str, Any]:
        channel = source.address.open()
        try:
            return dict(channel.call(Frame("describe"), seconds=PROBE_S).meta)
        finally:
            channel.close()

    def _introduced(self, poll: Callable[[], None]) -> dict[str, Any]:
        """What the teachers say of themselves; those that are silent now may come later."""
        facts: dict[str, Any] | None = None
        for source in self.pool.sources:
            poll()
            try:
                found = self._describe(source)
                Identity.from_meta(found.get("identity"))
            except (Unanswered, SignalError) as error:
                source.why = str(error)
                self.pool.wait_longer(source)
                continue
            except Denied as error:
                raise TeacherError(f"{source.address.url}: {error}") from error
            if facts is None:
                facts, self.identity = found, Identity.from_meta(found["identity"])
            else:
                self.refuse_another(Identity.from_meta(found["identity"]), source.address.url)
        if facts is None:
            raise TeacherError(f"{self.away()}: start one with `potstill serve`, or correct teacher.urls")
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
