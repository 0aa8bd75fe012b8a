"""A log as a stream of queries, in constant memory. Broken lines are counted and named, and do not stop the reading.

**The clock.** Windows are days, so a wrong stamp must not move an account into another year. A row up to `SLACK` behind
the log's clock or up to a day ahead of it is believed. Any other row is a clock jump: it is counted and named, and it
is placed at the clock's present time, until two such rows in a row agree within a day: then the clock goes there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from potstill.core.errors import DataError
from potstill.data.quarantine import BadRow, excerpt
from potstill.data.rows import Line, numbered_lines
from potstill.guard.logformats import FORMATS, Query

DAY = 86_400.0
SLACK = 300.0
PROBED = 50
"""Lines from which a format is told."""
DOUBTED = 1000
"""A log without one readable row among so many first lines is of another format."""
NAMED = 20


@dataclass(slots=True)
class LogReading:
    """What was read so far. broken and jumps count all; `named` holds the first few lines of either with the cause."""

    format: str = ""
    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    jumps: int = 0
    named: list[tuple[int, str]] = field(default_factory=list)

    def name(self, line: int, cause: str) -> None:
        """Keep one of the first lines that something was wrong with."""
        if len(self.named) < NAMED:
            self.named.append((line, excerpt(cause)))

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "format": self.format,
            "rows": self.rows,
            "broken": dict(self.broken),
            "clock_jumps": self.jumps,
            "named": [{"line": line, "cause": cause} for line, cause in self.named],
        }


class Clock:
    """The log's own time (see the module). `place` returns the time a row is counted at, and whether it jumped."""

    def __init__(self) -> None:
        self.now: float | None = None
        self._doubtful: float | None = None

    def place(self, time: float) -> tuple[float, bool]:
        """Where a row stamped `time` belongs."""
        if self.now is None or self.now - SLACK <= time <= self.now + DAY:
            self.now = time if self.now is None else max(self.now, time)
            self._doubtful = None
            return time, False
        if self._doubtful is not None and abs(time - self._doubtful) <= DAY:
            self.now, self._doubtful = time, None
            return time, True
        self._doubtful = time
        return self.now, True


def read_log(path: Path, format: str = "auto", reading: LogReading | None = None) -> Iterator[Query]:
    """The queries of one log in its order. reading: filled while the rows are taken.

    Raises:
        DataError: the file cannot be read, is empty, or no row of it can be read.
    """
    return read_lines(numbered_lines(path), str(path), format, reading)


def read_lines(
    lines: Iterable[Line], name: str, format: str = "auto", reading: LogReading | None = None
) -> Iterator[Query]:
    """As `read_log`, from lines that come from anywhere. Blank lines are nothing."""
    reading = LogReading() if reading is None else reading
    waiting = (line for line in lines if line.raw.strip())
    first = list(islice(waiting, PROBED))
    if not first:
        raise DataError(f"{name}: the log is empty; nothing can be said about it")
    reading.format = format if format != "auto" else format_of(first, name)
    parse, clock = FORMATS[reading.format], Clock()
    for line in chain(first, waiting):
        try:
            query = parse(line)
        except BadRow as error:
            reading.broken[error.reason] += 1
            reading.name(line.number, str(error))
            if not reading.rows and reading.broken.total() >= DOUBTED:
                raise _foreign(name, reading) from error
            continue
        reading.rows += 1
        time, jumped = clock.place(query.time)
        if jumped:
            reading.jumps += 1
            reading.name(line.number, f"clock jump: stamped {query.time:.0f}, counted at {time:.0f}")
        yield query if time == query.time else replace(query, time=time)
    if not reading.rows:
        raise _foreign(name, reading)


def format_of(lines: list[Line], name: str) -> str:
    """The format that reads most of these lines; of equals the first of FORMATS, which asks for the most.

    Raises:
        DataError: none reads any.
    """
    readable = {format: sum(_reads(format, line) for line in lines) for format in FORMATS}
    best = max(readable, key=lambda format: readable[format])
    if not readable[best]:
        raise DataError(
            f"{name}: no known log format reads any of the first {len(lines)} lines "
            f"({', '.join(FORMATS)}); name one with --format to see the cause, or convert the log to JSON lines "
            "with account, time and prompt"
        )
    return best


def _reads(format: str, line: Line) -> bool:
    try:
        FORMATS[format](line)
    except BadRow:
        return False
    return True


def _foreign(name: str, reading: LogReading) -> DataError:
    line, cause = reading.named[0]
    return DataError(
        f"{name}:{line}: {cause}; none of the first {reading.broken.total()} lines can be read as {reading.format}. "
        f"Known formats: {', '.join(FORMATS)}"
    )
