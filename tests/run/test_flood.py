"""Fault 26 against the real command, watched from outside: a crowd of 10,000 connections at every door, and a service
that neither grows nor locks out who has a key."""

import contextlib
import os
import threading
import time

import pytest
import torch

from potstill.core.signal import Want
from potstill.teachers.channel import Address
from potstill.teachers.remote import RemoteTeacher, Terms
from tests.run.certificates import make_certificate
from tests.run.test_serve import KEY, Serve
from tests.teachers import crowd
from tests.teachers.served import batch_of

CROWD = int(os.environ.get("POTSTILL_CROWD", "10000"))
BATCH = batch_of([3, 1, 4, 1, 5], [9, 2, 6])
GROWTH = 50  # MiB
LIMITS = ("--limit", "max_connections=200", "--limit", "idle_s=5", "--limit", "max_streams=8")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def plain(materials, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    words = ("--socket", folder / "s.sock", "--stream-port", 0, *LIMITS)
    with Serve(materials.decoder, folder, *words, addresses=3) as serve:
        yield serve


@pytest.fixture(scope="module")
def secure(materials, certificate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secure")
    words = ("--tls-cert", certificate[0], "--tls-key", certificate[1], "--stream-port", 0, *LIMITS)
    with Serve(materials.decoder, folder, *words, addresses=2) as serve:
        yield serve


def student(url, folder, ca=None):
    address = Address(url, KEY, shared_bytes=2**20, ca=None if ca is None else str(ca))
    terms = Terms(timeout_s=10)
    return RemoteTeacher([address], terms, task="causal-lm", heads=folder, weights=None, poll=lambda: None)


class Student(threading.Thread):
    """Asks again and again, as a training does. said: seconds each answer took."""

    def __init__(self, teacher):
        super().__init__(daemon=True)
        self.teacher, self.true, self.ended = teacher, teacher.signal(BATCH, Want()), threading.Event()
        self.said, self.error = [], None

    def run(self):
        try:
            while not self.ended.wait(0.02):
                started = time.monotonic()
                said = self.teacher.signal(BATCH, Want())
                self.said.append(time.monotonic() - started)
                assert torch.equal(said.logits.logits_BTV, self.true.logits.logits_BTV)
        except Exception as error:
            self.error = error

    def stop(self):
        self.ended.set()
        self.join(30)
        assert self.error is None, self.error
        assert self.said


DOORS = {
    "http, silent": ("plain", "http", crowd.SILENT),
    "http, half a request": ("plain", "http", crowd.HALF_A_REQUEST),
    "https, silent": ("secure", "https", crowd.SILENT),
    "https, half a handshake": ("secure", "https", crowd.HALF_A_HANDSHAKE),
    "tcp, silent": ("plain", "tcp", crowd.SILENT),
    "tcp, half a proof": ("plain", "tcp", b"x" * 60),
    "tls, half a handshake": ("secure", "tls", crowd.HALF_A_HANDSHAKE),
}


@pytest.mark.parametrize("door", DOORS)
def test_ten_thousand_connections_lock_nobody_out(door, request, certificate, tmp_path):
    """All of them stay open, and come again and again in the middle of a training: every question is answered, and of
    the service's memory, handles and threads nothing grows with the crowd."""
    which, scheme, words = DOORS[door]
    serve = request.getfixturevalue(which)
    url = next(url for url in serve.urls if url.startswith(scheme + "://"))
    ca = certificate[0] if which == "secure" else None
    process = serve.child.pid
    one = Student(student(url, tmp_path, ca))
    memory, handles, most = crowd.resident(process), crowd.handles(process), {"memory": 0.0, "handles": 0, "threads": 0}
    ended = threading.Event()

    def watch():
        while not ended.wait(0.05):
            for name, found in (("memory", crowd.resident), ("handles", crowd.handles), ("threads", crowd.threads)):
                with contextlib.suppress(OSError):
                    most[name] = max(most[name], found(process))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    one.start()
    started = time.monotonic()
    with crowd.crowd(url, CROWD, words) as made:
        seconds = time.monotonic() - started
        newcomer = student(url, tmp_path, ca)
        assert torch.equal(newcomer.signal(BATCH, Want()).logits.logits_BTV, one.true.logits.logits_BTV)
    one.stop()
    ended.set()
    watching.join()
    print(
        f"\n{door}: {made} in {seconds:.1f} s, memory +{most['memory'] - memory:.1f} MiB, "
        f"{most['handles']} handles, {most['threads']} threads, {len(one.said)} answers, slowest {max(one.said):.2f} s, "
        f"{one.teacher.counts}"
    )
    assert made == CROWD
    assert most["memory"] - memory < GROWTH
    assert most["handles"] < handles + 400
    assert most["threads"] < 160
