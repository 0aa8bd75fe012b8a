"""Crowds at the door of a teacher service: thousands of connections held open, and noise of every kind; and a look at
the process meanwhile. As a program of its own it makes noise, so that who measures has their own interpreter."""

import contextlib
import json
import random
import resource
import selectors
import socket
import sys
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
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
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
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


def head(length, key):
    much = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = ("POST /v1/signals HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", much)
    return "\r\n".join((*lines, "", "")).encode()


KINDS = (
    *("no frame", "bits flipped", "cut short", "no chunk"),
    *("half a request", "no HTTP", "a stream of no key", "vanishing"),
)
WAITED_FOR = KINDS[:4]


def noise(http, stream, body, key, draw):
    """One bad asker. http, stream: addresses. body: a good question, which is spoilt. Returns the kind and the status
    that was answered, b"" where the service hung up or none was waited for."""
    kind, body = draw.choice(KINDS), bytearray(body)
    if kind == "no frame":
        body = bytearray(draw.randbytes(draw.randrange(2000)))
    elif kind == "bits flipped":
        for _ in range(3):
            body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
    elif kind == "cut short":
        body = body[: draw.randrange(len(body))]
    elif kind == "no chunk":
        body = b"5\r\nhello\r\n" * draw.randrange(3) + draw.randbytes(draw.randrange(100)) + b"\r\n"
    payload = head(None if kind == "no chunk" else len(body), key) + body
    if kind == "half a request":
        payload = payload[: draw.randrange(len(payload))]
    elif kind in ("no HTTP", "a stream of no key"):
        payload = draw.randbytes(draw.randrange(2000))
    with socket.socket() as one:
        one.settimeout(10)
        one.connect(stream if kind == "a stream of no key" else http)
        with contextlib.suppress(ConnectionError, TimeoutError):
            one.sendall(payload)
            if kind in WAITED_FOR:
                return kind, one.recv(64)[9:12]
    return kind, b""


SOUND = (b"", b"200", b"400", b"409", b"413", b"422", b"429", b"503", b"504")


def siege(http, stream, body, key, *, number, rate, seed=0):
    """So much noise, so many a second where the machine can. Returns what was answered, by kind and status."""
    started, found = time.monotonic(), Counter()

    def one(place):
        time.sleep(max(0.0, started + place / rate - time.monotonic()))
        try:
            kind, status = noise(http, stream, body, key, random.Random(f"{seed} {place}"))
        except OSError as error:  # not even a connection
            return f"no connection: {error}"
        return f"{kind}: {status.decode(errors='replace') or 'nothing'}{'' if status in SOUND else ' UNSOUND'}"

    with ThreadPoolExecutor(16) as askers:
        found.update(askers.map(one, range(number)))
    return {"seconds": time.monotonic() - started, "answers": dict(found)}


if __name__ == "__main__":
    terms = json.load(sys.stdin)
    given = {name: tuple(terms.pop(name)) for name in ("http", "stream")}
    print(json.dumps(siege(**given, body=bytes.fromhex(terms.pop("body")), **terms)))
