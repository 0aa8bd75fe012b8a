"""One process per run folder. The kernel's lock decides and dies with its owner; the JSON only tells people who."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from potstill.core.errors import FolderError
from potstill.durable import writing

NAME = ".lock"


class RunLock:
    """Holds `folder` inside the `with`; makes the folder if need be.

    stale: what a process that died without leaving had written (pid, host, since), or None. Raises FolderError naming
    the holder when another process has the folder, and when the folder cannot be written or cannot be locked.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.stale: dict[str, Any] | None = None
        self._file: int | None = None

    def __enter__(self) -> RunLock:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self.folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take(file)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return self

    def _take(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderError(
                f"{self.folder} is in use by {_owner(file)}: wait for it, stop it, or name another folder"
            ) from None
        except OSError as error:
            raise FolderError(
                f"{self.folder} cannot be locked ({error.strerror}): use a folder on another disk"
            ) from error
        self.stale = _read(file)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with writing(self.folder):
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(owner).encode(), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            # The file stays: removing it would let two processes lock two files of one name.
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None


def _read(file: int) -> dict[str, Any] | None:
    try:
        value = json.loads(os.pread(file, 4096, 0) or b"null")
    except ValueError:  # the owner died while it wrote its name
        return {}
    return value if isinstance(value, dict) else None


def _owner(file: int) -> str:
    owner = _read(file) or {}
    return "process {pid} on {host} since {since}".format(**{"pid": "?", "host": "?", "since": "?", **owner})
