"""Expressions compared by math-verify, in a child process that is killed when it takes too long or too much."""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from potstill.core.errors import InputError, RunError

CHILD = Path(__file__).with_name("maths_child.py")
START_SECONDS = 60.0
# A longer text is no expression, and parsing one costs more than linear time.
LONGEST = 2000


class OutOfTime(Exception):
    """One check was ended by its time limit."""


class OutOfMemory(Exception):
    """One check ended its process: by the memory limit, or by a crash of the parser."""


class MathsChecker:
    """Answers "are these the same?" one after the other. seconds: for one; mebibytes: of the process that reads them.

    The process is started when it is first asked and again after it was killed. Raises InputError without math-verify.
    """

    def __init__(self, seconds: float, mebibytes: int):
        if importlib.util.find_spec("math_verify") is None:
            raise InputError('verify.kind maths needs math-verify: run `pip install "potstill[verify]"`')
        self._seconds, self._mebibytes = seconds, mebibytes
        self._child: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> MathsChecker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()

    def compare(self, reference: str, answer: str) -> dict[str, Any]:
        """{"reference": could be read, "answer": could be read, "same": are equal}.

        Raises OutOfTime or OutOfMemory, after which the next question goes to a new process.
        """
        if max(len(reference), len(answer)) > LONGEST:
            return {"reference": len(reference) <= LONGEST, "answer": len(answer) <= LONGEST, "same": False}
        child = self._child or self._start()
        assert child.stdin is not None, "it was started with a pipe"
        try:
            child.stdin.write(json.dumps({"reference": reference, "answer": answer}).encode() + b"\n")
            child.stdin.flush()
            line = self._line(child, self._seconds)
        except BrokenPipeError:
            line = b""
        if line is None:
            self._kill()
            raise OutOfTime
        if not line:
            self._kill()
            raise OutOfMemory
        answered: dict[str, Any] = json.loads(line)
        return answered

    def _start(self) -> subprocess.Popen[bytes]:
        # Its own session: a Ctrl-C meant for us does not end it in the middle, and all it started ends with it.
        self._child = subprocess.Popen(
            [sys.executable, "-I", str(CHILD), str(self._mebibytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._unread = b""
        if self._line(self._child, START_SECONDS) != b"ready":
            self._kill()
            raise RunError(
                "the process that compares expressions did not start: is math-verify whole? Run "
                '`pip install --force-reinstall "potstill[verify]"`, or raise verify.memory_limit'
            )
        return self._child

    def _line(self, child: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """The next line; b"" when the process has ended, None when time is over."""
        assert child.stdout is not None, "it was started with a pipe"
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - time.monotonic())):
                    return None
                if not (new := os.read(child.stdout.fileno(), 65536)):
                    return b""
                self._unread += new
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _kill(self) -> None:
        if self._child is not None:
            if self._child.poll() is None:
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.communicate()
            self._child = None
