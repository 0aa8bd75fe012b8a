"""Watchers of a run: a line for a person, a log for later. They are told, and change nothing."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from io import TextIOBase
from pathlib import Path
from typing import Any

from potstill.core.progress import Progress
from potstill.durable import write_all, writing


class Console:
    """On a terminal one live line; elsewhere a plain line every `seconds`. Skips, evaluations and saves always show.

    Speed is over this process's own training: tokens that a resumed run read before do not count.
    """

    def __init__(
        self, stream: TextIOBase | None = None, *, seconds: float = 10.0, clock: Callable[[], float] = time.monotonic
    ):
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._seconds, self._clock = (0.1 if self._live else seconds), clock
        self._first: tuple[float, Progress] | None = None
        self._shown = float("-inf")

    def notice(self, event: str, progress: Progress, values: Mapping[str, Any]) -> None:
        """Show one event."""
        if self._first is None:
            self._first = (self._clock(), progress)
        if event != "step":
            self._line(describe(event, progress, values))
        elif self._clock() - self._shown >= self._seconds:
            self._shown = self._clock()
            line = f"{describe(event, progress, values)} · {self._speed(progress)}"
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                self._stream.write(f"\r\x1b[K{line[:width]}")
                self._stream.flush()
            else:
                self._line(line)

    def _line(self, text: str) -> None:
        self._stream.write(("\r\x1b[K" if self._live else "") + text + "\n")
        self._stream.flush()

    def _speed(self, progress: Progress) -> str:
        assert self._first is not None
        started, first = self._first
        seconds = max(self._clock() - started, 1e-9)
        steps = max(progress.step - first.step, 1)
        left = (progress.max_steps - progress.step) * seconds / steps
        rate = (progress.tokens - first.tokens) / seconds
        return f"{rate:,.0f} tok/s · {_duration(left)} left · {_resident_gib():.2f} GiB"


class LogFile:
    """Appends to log.txt: every event with its time, steps only every `every`."""

    def __init__(self, path: Path, *, every: int = 10):
        self.path, self._every = path, every

    def notice(self, event: str, progress: Progress, values: Mapping[str, Any]) -> None:
        """Write one line. Raises DiskError or FolderError."""
        if event == "step" and progress.step % self._every:
            return
        line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {describe(event, progress, values)}\n"
        with writing(self.path):
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                write_all(file, line.encode())
            finally:
                os.close(file)


def describe(event: str, progress: Progress, values: Mapping[str, Any]) -> str:
    """An event as one line of words."""
    shown = " · ".join(f"{name} {_value(value)}" for name, value in values.items() if value not in (None, (), []))
    return f"{event} {progress.step}/{progress.max_steps}" + (f" · {shown}" if shown else "")


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _resident_gib() -> float:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0.0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
