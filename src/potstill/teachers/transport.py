"""Frames over a stream socket: TCP between hosts; on one host a Unix socket, with the answers in shared memory.

The memory is an anonymous file that the asking side makes, seals against any change of size and hands over with its
first words; it is filled again and again, so no answer pays for fresh pages, and it ends with the two processes,
however they end. What was measured is in docs/results/transport.md.

A stream begins with a proof of the key from both sides; the key itself does not travel. Without TLS the frames can
still be read and changed on their way: TCP is for a network that is your own.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import socket
import ssl
import struct
import sys
import time
from collections.abc import Sequence

import numpy as np

from potstill.core.errors import SignalError
from potstill.teachers.keys import KeyRing, prove
from potstill.teachers.wire import PREFIX, Frame, decode, encode, frame_length

GREETING = b"potstill stream 1"
_NONCE, _PROOF = 32, 32
_OPENING = struct.Struct("<32s32sQ")  # proof of the key, a nonce of our own, bytes of shared memory (0: none)
SOCKET_BUFFER = 4 * 2**20
# Anonymous files that can be sealed are Linux's. The seals: an area that shrinks under its reader kills it by SIGBUS.
SHARES = sys.platform == "linux"
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL if SHARES else 0


class StreamClosed(ConnectionError):
    """The other side is gone, or does not speak as it should."""


class Stream:
    """One connection, on which one frame is asked and one answered, in turn.

    A frame received is read where it lies: it stands until the next `receive`.
    """

    def __init__(self, connection: socket.socket, *, limit: int):
        self._socket, self._limit = connection, limit
        self._buffer = bytearray()
        self._area: mmap.mmap | None = None
        self._fills = False
        self.bytes_sent = self.bytes_received = 0

    def share(self, area: mmap.mmap, *, fills: bool) -> None:
        """From now on frames that fit go through this memory. fills: this side writes them, the other one reads."""
        self._area, self._fills = area, fills

    def send(self, frame: Frame, *, seconds: float) -> None:
        """Raises StreamClosed or TimeoutError."""
        buffers, until = encode(frame), time.monotonic() + seconds
        size = sum(len(buffer) for buffer in buffers)
        self.bytes_sent += size
        if self._area is not None and self._fills and size <= len(self._area):
            _fill(self._area, buffers)
            buffers = encode(Frame("shared", {"bytes": size}))
        try:
            for buffer in buffers:
                self._socket.settimeout(max(until - time.monotonic(), 0.001))
                self._socket.sendall(buffer)
        except TimeoutError:
            raise
        except OSError as error:
            raise StreamClosed(f"the connection broke while sending ({error.strerror or error})") from error

    def receive(self, *, seconds: float, first: float | None = None) -> Frame:
        """first: seconds until its first byte, where that may take longer than the rest.

        Raises StreamClosed or TimeoutError, and SignalError for what is no frame.
        """
        prefix = bytearray(PREFIX.size)
        view = memoryview(prefix)
        self._fill(view[:1], time.monotonic() + (seconds if first is None else first))
        until = time.monotonic() + seconds
        self._fill(view[1:], until)
        length = frame_length(prefix, limit=self._limit)
        if len(self._buffer) < length:
            self._buffer = bytearray(length)
        whole = memoryview(self._buffer)[:length]
        whole[: PREFIX.size] = prefix
        self._fill(whole[PREFIX.size :], until)
        self.bytes_received += length
        frame = decode(whole, limit=self._limit)
        return self._shared(frame) if frame.kind == "shared" else frame

    def gone(self) -> bool:
        """Whether the other side has hung up; looks without waiting. Unknown under TLS, then False."""
        if isinstance(self._socket, ssl.SSLSocket):
            return False
        self._socket.settimeout(None)
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Hang up; whoever waits in `send` or `receive` is woken."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _fill(self, view: memoryview, until: float) -> None:
        while len(view):
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("no answer in time")
            self._socket.settimeout(remaining)
            try:
                got = self._socket.recv_into(view)
            except TimeoutError:
                raise
            except OSError as error:
                raise StreamClosed(f"the connection broke ({error.strerror or error})") from error
            if not got:
                raise StreamClosed("the other side hung up")
            view = view[got:]

    def _shared(self, frame: Frame) -> Frame:
        size = frame.meta.get("bytes")
        if self._area is None or self._fills or not isinstance(size, int) or not 0 < size <= len(self._area):
            raise SignalError(f"{size} bytes of shared memory are announced that are not there: check both versions")
        self.bytes_received += size
        return decode(memoryview(self._area)[:size], limit=self._limit)


def _fill(area: mmap.mmap, buffers: Sequence[bytes | memoryview]) -> None:
    target, at = np.frombuffer(area, dtype=np.uint8), 0
    for buffer in buffers:
        target[at : at + len(buffer)] = np.frombuffer(buffer, dtype=np.uint8)
        at += len(buffer)


def greet(connection: socket.socket, key: str, *, shared_bytes: int, limit: int, seconds: float) -> Stream:
    """The asking side of a new connection. shared_bytes: how much memory to share; 0 unless it is a Unix socket.

    Raises StreamClosed when the other side does not know the key or is no teacher.
    """
    connection.settimeout(seconds)
    try:
        nonce = _exactly(connection, len(GREETING) + _NONCE)
        if not nonce.startswith(GREETING):
            raise StreamClosed("what answers at this address is no teacher's stream")
        own = secrets.token_bytes(_NONCE)
        opening = _OPENING.pack(prove(key.encode(), nonce[len(GREETING) :]), own, shared_bytes)
        stream = Stream(connection, limit=limit)
        if shared_bytes:
            handle = os.memfd_create("potstill-answers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(handle, shared_bytes)
                fcntl.fcntl(handle, fcntl.F_ADD_SEALS, _SEALS)
                stream.share(mmap.mmap(handle, shared_bytes), fills=False)
                socket.send_fds(connection, [opening], [handle])
            finally:
                os.close(handle)
        else:
            connection.sendall(opening)
        proof = _exactly(connection, _PROOF)
    except TimeoutError:
        raise
    except OSError as error:
        raise StreamClosed(f"the teacher hung up before it spoke ({error}): check the key on both sides") from error
    if KeyRing([key]).answering(own, proof) is None:
        raise StreamClosed("the teacher does not know the key that it was asked with: this is not your teacher")
    return stream


def welcome(connection: socket.socket, keys: KeyRing, *, most_shared: int, limit: int, seconds: float) -> Stream | None:
    """The teacher's side. None for whoever does not know a key; nothing is said to them.

    Raises StreamClosed or TimeoutError when the other side is gone or slow.
    """
    connection.settimeout(seconds)
    nonce, handles = secrets.token_bytes(_NONCE), []
    try:
        connection.sendall(GREETING + nonce)
        if connection.family == socket.AF_UNIX:
            opening, handles, _, _ = socket.recv_fds(connection, _OPENING.size, 1)
        else:
            opening = b""
        opening += _exactly(connection, _OPENING.size - len(opening))
        proof, theirs, shared = _OPENING.unpack(opening)
        key = keys.answering(nonce, proof)
        if key is None:
            return None
        stream = Stream(connection, limit=limit)
        if shared and handles and shared <= most_shared:
            stream.share(_mapped(handles[0], shared), fills=True)
        elif shared:
            raise StreamClosed(f"{shared} bytes of shared memory are offered, and at most {most_shared} are taken")
        connection.sendall(prove(key, theirs))
        return stream
    finally:
        for handle in handles:
            os.close(handle)


def _mapped(handle: int, size: int) -> mmap.mmap:
    if fcntl.fcntl(handle, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(handle).st_size != size:
        raise StreamClosed("the shared memory offered is not sealed against a change of its size")
    return mmap.mmap(handle, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise StreamClosed("the other side hung up")
        found += part
    return found


def connect(address: str, *, seconds: float, context: ssl.SSLContext | None = None) -> socket.socket:
    """A connected socket. address: `unix:/path`, `tcp://host:port`, or `tls://host:port` with a context.

    Raises OSError.
    """
    kind, _, rest = address.partition(":")
    if kind == "unix":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        connection.connect(rest.removeprefix("//"))
    else:
        host, _, port = rest.removeprefix("//").rpartition(":")
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind == "tls":
            assert context is not None, "a tls address comes with a context"
            connection = context.wrap_socket(connection, server_hostname=host.strip("[]"))
    roomy(connection)
    return connection


def roomy(connection: socket.socket) -> None:
    """Ask for large kernel buffers: fewer turns between the two processes."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
