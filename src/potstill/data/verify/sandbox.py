"""A program that nobody has read, run where it can reach nothing: Linux namespaces by `unshare`, and limits.

What it guarantees where it can be built: no network; no file of this machine but the interpreter's and the system
libraries, read-only; a folder in memory to write to, of 32 MiB; no process of this machine is seen; no capability, and
none to be gained; limits on time, memory, processes and files; everything it started ends with it. What it does not: it
runs on the kernel of this machine, and a flaw there is a way out. Against that, only another machine helps.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from potstill.core.errors import InputError

CHILD = Path(__file__).with_name("sandbox_child.py")
NOT_BUILT = 97
OUTPUT_BYTES = 1 << 16
SPACES = ("--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
CANARY = """
import os, socket
print(sorted(set(os.listdir('/')) & {'etc', 'home', 'root', 'tmp', 'var', 'proc', 'old'} - {'etc', 'root', 'home'}))
try:
    open('/usr/potstill-canary', 'w')
    print('wrote')
except OSError:
    pass
print(len(socket.if_nameindex()))
"""
Ended = Literal["exited", "out of time", "out of memory"]


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a program. code: its exit status, negative for a signal. output: the end of what it printed."""

    ended: Ended
    code: int
    output: str


def run_program(program: str, *, seconds: float, mebibytes: int, isolated: bool = True) -> Ran:
    """Run a Python program without packages, in the sandbox, or (isolated=False) with the limits alone: it may then
    read, write and send whatever this process may.

    Raises InputError where the sandbox cannot be built; nothing was run then.
    """
    interpreter = str(Path(sys.executable).resolve())
    limits = [str(math.ceil(seconds) + 1), str(mebibytes)]
    with tempfile.TemporaryDirectory(prefix="potstill-sandbox-") as place, tempfile.TemporaryFile() as output:
        root = "-" if not isolated else place
        command = [interpreter, "-I", "-S", str(CHILD), root, *limits, interpreter, *_folders(interpreter)]
        if isolated:
            command = [str(shutil.which("unshare") or "unshare"), *SPACES, *command]
        ran = _watched(command, program, seconds, output.fileno(), place)
        told = _end_of(output.fileno())
    if ran is None:
        return Ran("out of time", -signal.SIGKILL, told)
    if ran == NOT_BUILT:
        raise InputError(_cannot(told))
    # A process that is refused memory says so itself; one that touches what it was not given dies of it.
    starved = (ran != 0 and "MemoryError" in told) or ran in (-signal.SIGSEGV, 128 + signal.SIGSEGV)
    if ran in (-signal.SIGXCPU, 128 + signal.SIGXCPU):
        return Ran("out of time", ran, told)
    return Ran("out of memory" if starved else "exited", ran, told)


def _watched(command: list[str], program: str, seconds: float, output: int, place: str) -> int | None:
    """The exit status; None when the time was over, and then all of it has been killed."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=place,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(_cannot(str(error))) from error
    try:
        child.communicate(program.encode("utf-8", "replace"), timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    return child.returncode


def _end_of(output: int) -> str:
    size = os.lseek(output, 0, os.SEEK_END)
    return os.pread(output, OUTPUT_BYTES, max(0, size - OUTPUT_BYTES)).decode("utf-8", "replace")


def _folders(interpreter: str) -> list[str]:
    """What the interpreter needs beside the system's folders."""
    prefix = str(Path(sys.base_prefix).resolve())
    return [] if prefix.startswith("/usr") and not prefix.startswith("/usr/local/") else [prefix]


@functools.cache
def isolation() -> str | None:
    """None where programs can be isolated, as a canary that tries to get out has found; else why they cannot."""
    try:
        ran = run_program(CANARY, seconds=20, mebibytes=256)
    except InputError as error:
        return str(error)
    if ran.code != 0 or ran.output.split("\n")[:2] != ["[]", "1"]:
        return f"the sandbox leaks or does not run a program ({ran.ended}, {ran.code}: {ran.output[-200:].strip()})"
    return None


def _cannot(cause: str) -> str:
    return (
        f"no sandbox can be built here ({' '.join(cause.split())[-200:]}); it needs Linux with user namespaces and "
        "util-linux's unshare. Run this where they are, or pass --allow-unisolated-code on a machine that holds "
        "nothing of worth"
    )
