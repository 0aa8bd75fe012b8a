"""The streams of a teacher service: a bounded number of connections, a thread for each.

A thread, and not the event loop: a blocking socket that receives into a buffer it keeps is what comes near the speed of
memory, and a student holds a handful of connections, not thousands.

Whoever has not yet proved a key stands at the door, and takes no place from those who have. The door has a number of
its own; who comes beyond it is let to it in place of the one that has stood there longest.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from pathlib import Path

from potstill.core.errors import InputError, SignalError
from potstill.teachers.keys import KeyRing
from potstill.teachers.limits import Limits, Refused
from potstill.teachers.metrics import Metrics
from potstill.teachers.transport import Stream, StreamClosed, roomy, welcome
from potstill.teachers.wire import Frame

Answer = Callable[[Frame], "Future[Frame]"]


@dataclass(slots=True, eq=False)
class _Guest:
    """A connection. since: when it came. TLS puts another socket in the place of the first."""

    connection: socket.socket
    since: float

    def hang_up(self) -> None:
        """Wake the thread that waits there; it closes."""
        with contextlib.suppress(OSError):
            # Not the method of an SSL socket, which takes it out of the hands of that thread.
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)


_LOOK = 0.25  # seconds between two looks whether the asker is still there
_QUIET = 3600.0  # seconds a stream may stay without a question
AT_THE_DOOR = 128  # connections that have not yet proved a key


class Streams:
    """Listens on sockets and answers what is asked there."""

    def __init__(self, answer: Answer, keys: KeyRing, limits: Limits, metrics: Metrics):
        self._answer, self._keys, self._limits, self._metrics = answer, keys, limits, metrics
        self._listening: list[socket.socket] = []
        self._door: dict[_Guest, None] = {}  # in the order of their coming
        self._open: set[_Guest] = set()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._watch, daemon=True, name="door").start()

    def listen_unix(self, path: Path) -> None:
        """Listen on a socket file that only this user may open; one left behind by a dead process is replaced."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            raise InputError(f"{path}: another teacher listens there; name another --socket")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            if path.is_socket():
                path.unlink()
            listening.bind(str(path))
        except OSError as error:
            raise InputError(f"{path}: no socket can be made ({error.strerror}); name another --socket") from error
        finally:
            os.umask(before)
        self._listen(listening, None)

    def listen_tcp(self, host: str, port: int, context: ssl.SSLContext | None) -> int:
        """Listen on a port (0: any free one) and return it."""
        try:
            listening = socket.create_server((host, port), backlog=64)
        except OSError as error:
            raise InputError(f"{host}:{port}: cannot listen there ({error.strerror}); name another port") from error
        self._listen(listening, context)
        return int(listening.getsockname()[1])

    def close(self) -> None:
        """Stop listening and hang up."""
        self._closed = True
        with self._changed:
            listening, self._listening = self._listening, []
            guests = [*self._door, *self._open]
            self._changed.notify_all()
        for one in guests:
            one.hang_up()
        for socket_ in listening:
            if socket_.family == socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    os.unlink(socket_.getsockname())
            with contextlib.suppress(OSError):
                socket_.shutdown(socket.SHUT_RDWR)
            socket_.close()

    @property
    def count(self) -> int:
        """Streams that are open."""
        return len(self._open)

    def _listen(self, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        listening.listen(64)
        self._listening.append(listening)
        threading.Thread(target=self._accept, args=(listening, context), daemon=True, name="accept").start()

    def _accept(self, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        while not self._closed:
            try:
                connection, _ = listening.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # out of file handles: those in use will be given back
                continue
            guest = self._at_the_door(connection)
            threading.Thread(target=self._serve, args=(guest, context), daemon=True, name="stream").start()

    def _at_the_door(self, connection: socket.socket) -> _Guest:
        """Wait until there is room, which is made by hanging up on whoever has stood there longest."""
        with self._changed:
            while len(self._door) >= AT_THE_DOOR and not self._closed:
                next(iter(self._door)).hang_up()
                self._changed.wait(_LOOK)
            guest = _Guest(connection, time.monotonic())
            self._door[guest] = None
            return guest

    def _watch(self) -> None:
        """Nobody stands at the door for longer than `idle_s`, however little by little they speak."""
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, _LOOK)
                now = time.monotonic()
                for guest in self._door:
                    if now - guest.since > self._limits.idle_s:
                        guest.hang_up()

    def _let_in(self, guest: _Guest) -> bool:
        """From the door to a place, if there is one."""
        with self._changed:
            if len(self._open) >= self._limits.max_streams:
                return False
            self._open.add(guest)
            del self._door[guest]
            self._changed.notify_all()
            return True

    def _serve(self, guest: _Guest, context: ssl.SSLContext | None) -> None:
        try:
            stream = self._welcomed(guest, context)
            if stream is None:
                self._metrics.add("requests_total", route="stream", status="401")
                return
            if not self._let_in(guest):
                self._turn_away(stream)
                return
            while not self._closed:
                question = stream.receive(seconds=self._limits.deadline_s, first=_QUIET)
                self._one(stream, question)
        except (StreamClosed, TimeoutError, OSError, SignalError):
            # Nobody is there to be told, or what came is no frame and where the next one begins is unknown.
            self._metrics.add("connections_dropped_total")
        finally:
            guest.connection.close()
            with self._changed:
                self._open.discard(guest)
                self._door.pop(guest, None)
                self._changed.notify_all()

    def _welcomed(self, guest: _Guest, context: ssl.SSLContext | None) -> Stream | None:
        """The stream of whoever proved a key, else None."""
        if guest.connection.family != socket.AF_UNIX:
            guest.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        guest.connection.settimeout(self._limits.idle_s)
        if context is not None:
            layer = context.wrap_socket(guest.connection, server_side=True, do_handshake_on_connect=False)
            guest.connection = layer
            layer.do_handshake()
        stream = welcome(
            guest.connection,
            self._keys,
            most_shared=self._limits.max_reply_bytes,
            limit=self._limits.max_body_bytes,
            seconds=self._limits.idle_s,
        )
        if stream is not None:
            roomy(guest.connection)
        return stream

    def _turn_away(self, stream: Stream) -> None:
        """Somebody with a key, for whom there is no place: told so in answer to the first question."""
        stream.receive(seconds=self._limits.idle_s)
        no = {"status": 429, "reason": "too many streams are open: ask again later", "retry_after": 1.0}
        stream.send(Frame("refused", no), seconds=self._limits.idle_s)
        self._metrics.add("requests_total", route="stream", status="429")

    def _one(self, stream: Stream, question: Frame) -> None:
        started, status = time.monotonic(), "200"
        try:
            reply = self._waited(stream, self._answer(question), started + self._limits.deadline_s)
        except Refused as no:
            status = str(no.status)
            values = {"status": no.status, "reason": no.reason, "retry_after": no.retry_after}
            reply = Frame("refused", values)
        before = stream.bytes_sent
        stream.send(reply, seconds=self._limits.deadline_s)
        self._metrics.add("reply_bytes_total", stream.bytes_sent - before)
        self._metrics.add("requests_total", route="stream", status=status)
        self._metrics.took(time.monotonic() - started)

    def _waited(self, stream: Stream, future: Future[Frame], until: float) -> Frame:
        """The answer. Raises StreamClosed, and takes the question back, when the asker has hung up."""
        while True:
            try:
                return future.result(timeout=_LOOK)
            except Late:
                if future.done():
                    raise Refused(504, "the deadline passed: ask for fewer rows at once", retry_after=1) from None
                if time.monotonic() > until or stream.gone():
                    future.cancel()
                if future.cancelled() and stream.gone():
                    raise StreamClosed("the asker hung up") from None
                if future.cancelled():
                    raise Refused(504, "the deadline passed: ask for fewer rows at once", retry_after=1) from None
