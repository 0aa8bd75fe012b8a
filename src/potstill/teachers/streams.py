"""The streams of a teacher service: a bounded number of connections, a thread for each.

A thread, and not the event loop: a blocking socket that receives into a buffer it keeps is what comes near the speed of
memory, and a student holds a handful of connections, not thousands.
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
from pathlib import Path

from potstill.core.errors import InputError, SignalError
from potstill.teachers.keys import KeyRing
from potstill.teachers.limits import Limits, Refused
from potstill.teachers.metrics import Metrics
from potstill.teachers.transport import Stream, StreamClosed, roomy, welcome
from potstill.teachers.wire import Frame

Answer = Callable[[Frame], "Future[Frame]"]
_LOOK = 0.25  # seconds between two looks whether the asker is still there
_QUIET = 3600.0  # seconds a stream may stay without a question


class Streams:
    """Listens on sockets and answers what is asked there."""

    def __init__(self, answer: Answer, keys: KeyRing, limits: Limits, metrics: Metrics):
        self._answer, self._keys, self._limits, self._metrics = answer, keys, limits, metrics
        self._listening: list[socket.socket] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False

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
        with self._lock:
            waiting, self._listening = [*self._listening, *self._open], []
        for one in waiting:
            if one.family == socket.AF_UNIX and one not in self._open:
                with contextlib.suppress(OSError):
                    os.unlink(one.getsockname())
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

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
            with self._lock:
                full = len(self._open) >= self._limits.max_streams
                if not full:
                    self._open.add(connection)
            if full:
                self._metrics.add("connections_dropped_total")
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection, context), daemon=True, name="stream").start()

    def _serve(self, accepted: socket.socket, context: ssl.SSLContext | None) -> None:
        connection = accepted
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            roomy(connection)
            connection.settimeout(self._limits.idle_s)
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            stream = welcome(
                connection,
                self._keys,
                most_shared=self._limits.max_reply_bytes,
                limit=self._limits.max_body_bytes,
                seconds=self._limits.idle_s,
            )
            if stream is None:
                self._metrics.add("requests_total", route="stream", status="401")
                return
            while not self._closed:
                question = stream.receive(seconds=self._limits.deadline_s, first=_QUIET)
                self._one(stream, question)
        except (StreamClosed, TimeoutError, OSError, SignalError):
            # Nobody is there to be told, or what came is no frame and where the next one begins is unknown.
            self._metrics.add("connections_dropped_total")
        finally:
            with self._lock:
                self._open.discard(accepted)
            connection.close()

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
