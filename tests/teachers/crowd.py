"""Crowds at the door of a teacher service: thousands of connections held open, and a service process watched meanwhile."""

import contextlib
import resource
import selectors
import socket
import ssl
import time
from collections import deque
from pathlib import Path

# What a connection says once it is open; the rest of it never comes.
SILENT, HALF_A_REQUEST, HALF_A_HANDSHAKE = b"", b"GET /health HTTP/1.1\r\nHost: ", b"\x16\x03\x01\x02\x00\x01"
_SPARE = 500  # file handles that the test itself needs
_AT_ONCE = 256


def address_of(url):
    host, _, port = url.split("://")[1].rpartition(":")
    return host, int(port)


def holding(number):
    """How many of `number` connections this process may hold at a time, after asking for all that the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(number, hard - _SPARE)


@contextlib.contextmanager
def crowd(url, number, words=SILENT):
    """`number` connections to an address, each saying `words`, all held open for the block (the latest of them where
    the system allows fewer). Yields how many were made."""
    held, made = deque(), 0
    most = holding(number)
    try:
        while made < number:
            part = min(_AT_ONCE, number - made)
            while len(held) + part > most:
                held.popleft().close()
            opened = _opened(address_of(url), part, words)
            held.extend(opened)
            made += len(opened)
        yield made
    finally:
        for one in held:
            one.close()


def _opened(address, number, words, seconds=30):
    """Connections, opened side by side. Raises AssertionError when they are not taken in time."""
    found, until = [], time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for _ in range(number):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            waiting.register(one, selectors.EVENT_WRITE)
        while waiting.get_map():
            assert time.monotonic() < until, f"{len(waiting.get_map())} connections were not taken in {seconds} s"
            for key, _ in waiting.select(1):
                waiting.unregister(key.fileobj)
                with contextlib.suppress(OSError):  # the service may have hung up already: its right
                    key.fileobj.send(words)
                found.append(key.fileobj)
    return found


def resident(process):
    """MiB of memory that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def handles(process):
    """Files and sockets that a process has open."""
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def threads(process):
    """Threads of a process."""
    return len(list(Path(f"/proc/{process}/task").iterdir()))


def trusting(certificate):
    """A context that trusts one certificate."""
    return ssl.create_default_context(cafile=str(certificate))
