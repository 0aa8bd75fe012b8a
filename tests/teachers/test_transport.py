"""Frames over streams: what is sent is what arrives, nobody enters without the key, and no area can be pulled away."""

import fcntl
import mmap
import os
import secrets
import socket
import threading

import pytest
import torch

from potstill.core.errors import SignalError
from potstill.teachers.keys import KeyRing, prove
from potstill.teachers.transport import _OPENING, GREETING, Stream, StreamClosed, greet, welcome
from potstill.teachers.wire import Frame

KEY = "a key for the streams of tests"


def pair(kind=socket.AF_UNIX):
    if kind == socket.AF_UNIX:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asking = socket.create_connection(listening.getsockname())
        return asking, listening.accept()[0]


def met(kind=socket.AF_UNIX, shared=0, asked_with=KEY, most=2**20, limit=2**22):
    """Both ends after their greeting; None for an end that refused."""
    asking, serving = pair(kind)
    found, errors = {}, {}

    def teacher():
        try:
            found["teacher"] = welcome(
                serving, KeyRing(["another key of the file", KEY]), most_shared=most, limit=limit, seconds=5
            )
        except (StreamClosed, TimeoutError, OSError) as error:
            errors["teacher"] = error
        if found.get("teacher") is None:
            serving.close()

    thread = threading.Thread(target=teacher)
    thread.start()
    try:
        found["student"] = greet(asking, asked_with, shared_bytes=shared, limit=limit, seconds=5)
    except (StreamClosed, TimeoutError) as error:
        errors["student"] = error
    thread.join(10)
    return found.get("student"), found.get("teacher"), errors


def frame(size, value=1.0):
    return Frame("signal", {"n": size}, {"states": torch.full((size,), value)})


@pytest.mark.parametrize(("kind", "shared"), [(socket.AF_UNIX, 0), (socket.AF_UNIX, 2**16), (socket.AF_INET, 0)])
@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_what_is_sent_arrives(kind, shared, size):
    """Frames too large for the shared memory go through the socket."""
    student, teacher, _ = met(kind, shared)
    for value in (1.0, 2.0):
        writer = threading.Thread(target=teacher.send, args=(frame(size, value),), kwargs={"seconds": 5})
        writer.start()
        heard = student.receive(seconds=5)
        writer.join()
        assert heard.meta == {"n": size}
        assert torch.equal(heard.tensors["states"], torch.full((size,), value))
    student.send(frame(3), seconds=5)
    assert teacher.receive(seconds=5).tensors["states"].tolist() == [1, 1, 1]


def test_shared_memory_is_used_again_and_again():
    student, teacher, _ = met(shared=2**16)
    addresses = set()
    for value in range(5):
        teacher.send(frame(1000, float(value)), seconds=5)
        heard = student.receive(seconds=5).tensors["states"]
        assert heard[0] == value
        addresses.add(heard.data_ptr())
    assert len(addresses) == 1


def test_bytes_are_counted_as_they_are():
    from potstill.teachers.wire import frame_bytes

    student, teacher, _ = met()
    teacher.send(frame(1000), seconds=5)
    student.receive(seconds=5)
    assert teacher.bytes_sent == student.bytes_received == frame_bytes(frame(1000))


@pytest.mark.parametrize("kind", [socket.AF_UNIX, socket.AF_INET])
def test_without_the_key_nothing_is_said(kind):
    student, teacher, errors = met(kind, asked_with="not the key of this teacher")
    assert student is None
    assert teacher is None
    assert "check the key" in str(errors["student"]) or "hung up" in str(errors["student"])


def test_a_teacher_that_does_not_know_the_key_is_not_believed():
    asking, serving = pair()

    def impostor():
        serving.sendall(GREETING + secrets.token_bytes(32))
        serving.recv(1000)
        serving.sendall(secrets.token_bytes(32))

    threading.Thread(target=impostor).start()
    with pytest.raises(StreamClosed, match="not your teacher"):
        greet(asking, KEY, shared_bytes=0, limit=2**20, seconds=5)


def test_the_key_does_not_travel():
    asking, serving = pair()
    seen = []

    def listener():
        serving.sendall(GREETING + secrets.token_bytes(32))
        seen.append(serving.recv(1000))
        serving.close()

    thread = threading.Thread(target=listener)
    thread.start()
    with pytest.raises(StreamClosed):
        greet(asking, KEY, shared_bytes=0, limit=2**20, seconds=5)
    thread.join()
    assert KEY.encode() not in seen[0]


def offered(prepare, announced=4096):
    """What the teacher says to an area that is offered, with the right key."""
    asking, serving = pair()
    handle = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    prepare(handle)

    def student():
        nonce = asking.recv(1000)[len(GREETING) :]
        opening = _OPENING.pack(prove(KEY.encode(), nonce), secrets.token_bytes(32), announced)
        socket.send_fds(asking, [opening], [handle])

    threading.Thread(target=student).start()
    return welcome(serving, KeyRing([KEY]), most_shared=2**20, limit=2**20, seconds=5)


def sealed(handle, size=4096, seals=fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL):
    os.ftruncate(handle, size)
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals)


def test_an_area_is_taken_only_sealed_and_of_its_size():
    assert offered(sealed) is not None
    with pytest.raises(StreamClosed, match="not sealed"):
        offered(lambda handle: os.ftruncate(handle, 4096))
    with pytest.raises(StreamClosed, match="not sealed"):
        offered(lambda handle: sealed(handle, seals=fcntl.F_SEAL_GROW))
    with pytest.raises(StreamClosed, match="not sealed"):
        offered(lambda handle: sealed(handle, size=100))
    with pytest.raises(StreamClosed, match="at most"):
        offered(sealed, announced=2**30)


def test_an_area_that_was_not_shared_cannot_be_announced():
    student, teacher, _ = met()
    teacher.send(Frame("shared", {"bytes": 100}), seconds=5)
    with pytest.raises(SignalError, match="shared memory"):
        student.receive(seconds=5)
    student, teacher, _ = met(shared=4096)
    teacher._area, size = None, 2**40
    teacher.send(Frame("shared", {"bytes": size}), seconds=5)
    with pytest.raises(SignalError, match="shared memory"):
        student.receive(seconds=5)


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n" * 5, b"\0" * 200, secrets.token_bytes(300)])
def test_noise_is_no_frame(noise):
    student, _, _ = met()
    other = student._socket
    one, two = pair()
    stream = Stream(two, limit=2**20)
    one.sendall(noise)
    with pytest.raises(SignalError):
        stream.receive(seconds=5)
    other.close()


def test_a_frame_beyond_the_limit_takes_no_memory():
    one, two = pair()
    stream = Stream(two, limit=1000)
    writer = threading.Thread(target=lambda: Stream(one, limit=2**30).send(frame(10_000), seconds=5), daemon=True)
    writer.start()
    with pytest.raises(SignalError, match="1,000"):
        stream.receive(seconds=5)
    assert len(stream._buffer) == 0
    one.close()


def test_slow_and_gone():
    student, teacher, _ = met()
    with pytest.raises(TimeoutError):
        student.receive(seconds=0.05)
    assert not teacher.gone()
    student.close()
    assert teacher.gone()
    with pytest.raises(StreamClosed):
        teacher.receive(seconds=1)


def test_an_area_outlives_nobody():
    """The memory has no name in any folder."""
    student, _, _ = met(shared=2**20)
    assert isinstance(student._area, mmap.mmap)
    assert not [name for name in os.listdir("/dev/shm") if "potstill" in name]
