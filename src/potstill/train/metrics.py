"""metrics.jsonl: the curve. Appended to, and cut back to the checkpoint's place on resume, so that a run that was
killed ten times leaves the same curve as one that was not: no gap and no line twice."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from potstill.durable import write_all, writing


class MetricsFile:
    """One flat JSON object a line, with "event" ("step", "skip", "evaluate") and "step"."""

    def __init__(self, path: Path):
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def position(self) -> int:
        """Bytes written, flushed to the disk: a checkpoint may refer to them."""
        with writing(self.path):
            os.fsync(self._file)
        return os.fstat(self._file).st_size

    def cut(self, position: int) -> bool:
        """Discard what lies beyond. False when the file is shorter than that: lines were lost."""
        whole = os.fstat(self._file).st_size >= position
        if whole:
            with writing(self.path):
                os.ftruncate(self._file, position)
        return whole

    def append(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """One line. Numbers that JSON does not know (nan, inf) become null."""
        row = {"event": event, "step": step, **{name: _plain(value) for name, value in values.items()}}
        with writing(self.path):
            write_all(self._file, json.dumps(row, allow_nan=False).encode() + b"\n")


class UnkeptMetrics:
    """The curve on a process that does not write: the same lines lie in another one's file."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> UnkeptMetrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def position(self) -> int:
        """Nothing was written."""
        return 0

    def cut(self, position: int) -> bool:
        """Nothing can be missing."""
        return True

    def append(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Nothing."""


def metrics_file(path: Path, *, kept: bool) -> MetricsFile | UnkeptMetrics:
    """The curve of a training, or of a process that only takes part in one."""
    return MetricsFile(path) if kept else UnkeptMetrics(path)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
