"""Which of several teachers is asked next, and how long one that failed is left alone.

Delays double with full jitter (teachers/patience.py), so that students who failed together do not come back together.
What a teacher says in Retry-After is waited in full. After some failures in a row its breaker opens: it is then asked
who it is, and nothing else, until it answers.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from potstill.teachers.channel import Address, Channel
from potstill.teachers.patience import LONGEST_BACKOFF, full_jitter

FIRST_DELAY_S = 0.25
BREAK_AFTER = 5


def delay(failures: int, draw: Callable[[], float], retry_after: float | None = None) -> float:
    """Seconds to leave a teacher alone after so many failures in a row. draw: uniform in [0, 1)."""
    return max(full_jitter(failures, draw, first=FIRST_DELAY_S), min(retry_after or 0.0, 10 * LONGEST_BACKOFF))


@dataclass(slots=True, eq=False)
class Source:
    """One teacher of the pool. weight: its share of the questions. counts: what became of them."""

    address: Address
    weight: float = 1.0
    failures: int = 0
    not_before: float = 0.0
    busy: int = 0
    why: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    free: list[Channel] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        """Its breaker is open."""
        return self.failures >= BREAK_AFTER


class Pool:
    """Hands out sources, the least busy for its weight first, and takes back what became of each question."""

    def __init__(self, sources: Sequence[Source], *, seed: int = 0):
        self.sources = tuple(sources)
        self._draw = random.Random(seed)
        self._changed = threading.Condition()

    def take(self, closed: Callable[[], bool], seconds: float = 0.1) -> Source | None:
        """A source that may be asked now, waiting for the first one whose delay ends. None when every breaker is open,
        or `closed` says so. seconds: between two looks at `closed`."""
        with self._changed:
            while not closed():
                whole = [one for one in self.sources if not one.broken]
                if not whole:
                    return None
                now = time.monotonic()
                ready = [one for one in whole if one.not_before <= now]
                if ready:
                    best = min(ready, key=lambda one: (one.busy + 1) / one.weight)
                    best.busy += 1
                    return best
                self._changed.wait(min(min(one.not_before for one in whole) - now, seconds))
            return None

    def channel(self, source: Source) -> Channel:
        """One that is free, or a new one. Raises what opening one raises."""
        with self._changed:
            if source.free:
                return source.free.pop()
        return source.address.open()

    def hang_up(self) -> None:
        """Close every channel that is free."""
        with self._changed:
            free = [channel for source in self.sources for channel in source.free]
            for source in self.sources:
                source.free.clear()
        for channel in free:
            channel.close()

    def succeeded(self, source: Source, channel: Channel | None = None) -> None:
        """It answered, and well; the channel may be used again."""
        if channel is not None:
            with self._changed:
                source.free.append(channel)
        self._back(source, "answered", 0, None, "")

    def failed(self, source: Source, why: str, retry_after: float | None = None) -> None:
        """It gave no answer."""
        self._back(source, "unanswered", source.failures + 1, retry_after, why)

    def refused(self, source: Source, why: str) -> None:
        """It answered, and wrongly; it is left alone for a while, as if it had failed."""
        self._back(source, "refused", source.failures + 1, None, why)

    def mend(self, source: Source) -> None:
        """It said who it is: its breaker closes, on probation of one question."""
        with self._changed:
            source.failures, source.not_before = BREAK_AFTER - 1, 0.0
            self._changed.notify_all()

    def wait_longer(self, source: Source) -> None:
        """It did not say who it is: it is asked again later still."""
        with self._changed:
            source.failures += 1
            source.not_before = time.monotonic() + delay(source.failures, self._draw.random)

    def count(self, what: str) -> int:
        """answered, unanswered or refused, over all sources."""
        return sum(one.counts[what] for one in self.sources)

    def _back(self, source: Source, what: str, failures: int, retry_after: float | None, why: str) -> None:
        with self._changed:
            source.busy -= 1
            source.counts[what] += 1
            source.failures, source.why = failures, why or source.why
            if failures:
                source.not_before = time.monotonic() + delay(failures, self._draw.random, retry_after)
            self._changed.notify_all()
