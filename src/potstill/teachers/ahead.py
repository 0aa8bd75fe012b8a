"""A batch source that looks ahead, so that a teacher elsewhere can be asked about batches before they are learnt from.

What it saves is the position of the batch that comes next, never of those that were only looked at: a run that stops
goes on with the same batches, however far ahead it had looked.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from potstill.core.batch import Batch
from potstill.core.protocols import BatchSource, Teacher
from potstill.core.signal import Want


@runtime_checkable
class Forewarned(Protocol):
    """A teacher that can be told of a batch before its signal is wanted."""

    def expect(self, batch: Batch, want: Want) -> None:
        """The signal of this batch will be wanted soon."""
        ...

    def forget(self, batch: Batch | None = None) -> None:
        """It will not, or that of no batch told of."""
        ...


def forewarn(teacher: Teacher | None, batch: Batch, want: Want) -> None:
    """Tell a teacher that can use it."""
    if isinstance(teacher, Forewarned):
        teacher.expect(batch, want)


def release(teacher: Teacher | None, batch: Batch | None = None) -> None:
    """What was told of this batch, or of all, is not wanted any more."""
    if isinstance(teacher, Forewarned):
        teacher.forget(batch)


class Ahead:
    """A BatchSource over another one. depth: batches looked at beyond the one handed out. expect: told of each batch
    once, in order, with its number since the start or the last `restore`. forget: told when those still to come will
    not come in this order."""

    def __init__(
        self, source: BatchSource, depth: int, expect: Callable[[int, Batch], None], forget: Callable[[], None]
    ):
        self._source, self._depth, self._expect, self._forget = source, depth, expect, forget
        self._seen: deque[tuple[str, Batch]] = deque()
        self._told = 0

    def next(self) -> Batch:
        """The next batch of the source."""
        while len(self._seen) <= self._depth:
            place = json.dumps(dict(self._source.state()))
            batch = self._source.next()
            self._seen.append((place, batch))
            self._expect(self._told, batch)
            self._told += 1
        return self._seen.popleft()[1]

    def state(self) -> Mapping[str, Any]:
        """Where the next batch comes from."""
        if self._seen:
            found: dict[str, Any] = json.loads(self._seen[0][0])
            return found
        return self._source.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken."""
        self._seen.clear()
        self._told = 0
        self._forget()
        self._source.restore(state)
