"""One process of a program on one machine, and the command that makes it a rank."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from potstill.redaction import redact

# From Linux's prctl.h: the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1
MOST_BYTES = 64 * 1024
# What the cluster's own processes need, and a program does not.
NOT_HANDED_ON = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def command_line(
    command: Sequence[str], *, nodes: int, ranks_per_node: int, node: int, master: str, port: int
) -> list[str]:
    """What this machine starts: the command; for several ranks, torchrun around it."""
    own = [sys.executable, "-m", "potstill"] if command[0] == "potstill" else [command[0]]
    if nodes * ranks_per_node == 1:
        return [*own, *command[1:]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--node-rank={node}"]
    where = [f"--nproc-per-node={ranks_per_node}", f"--master-addr={master}", f"--master-port={port}"]
    return [*torchrun, *where, "-m", "potstill", *command[1:]]


class Member:
    """A child process whose end, and whose words, can be asked for. It does not outlive the process that started it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the child
        self._read = 0

    def address(self) -> tuple[str, int]:
        """This machine's address as others reach it, and a port that is free now."""
        import ray

        host = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind(("", 0))
            return host, free.getsockname()[1]

    def start(self, line: Sequence[str], directory: str, environment: Mapping[str, str]) -> None:
        """Start the child; what it writes is kept."""
        library = ctypes.CDLL(None)
        # SIGTERM, not SIGKILL: a launcher passes it on to its ranks, which save and leave.
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_HANDED_ON}
        self._child = subprocess.Popen(
            list(line),
            cwd=directory,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )

    def look(self) -> tuple[int | None, str]:
        """The exit code (None: it runs), and what was written since; of a flood only the end."""
        assert self._child is not None
        code = self._child.poll()
        end = os.fstat(self._output.fileno()).st_size
        begin = max(self._read, end - MOST_BYTES)
        text = os.pread(self._output.fileno(), end - begin, begin)
        cut = len(text) if code is not None else text.rfind(b"\n") + 1
        self._read = begin + cut
        return code, redact(text[:cut].decode(errors="replace"))

    def ask_to_stop(self) -> None:
        """SIGTERM: programs of this package save and end with 143."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def kill(self) -> None:
        """When it did not."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()
