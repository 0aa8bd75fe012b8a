"""A frame comes back as it went; whatever else arrives is a SignalError, and never costs more memory than it has."""

import contextlib
import json
import socket
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.core.errors import SignalError
from potstill.teachers.framing import ALIGNMENT, MAGIC, PREFIX, VERSION
from potstill.teachers.wire import (
    DTYPES,
    LARGEST_HEADER,
    Frame,
    decode,
    encode,
    frame_bytes,
    frame_length,
)


def raw(frame):
    return bytearray(b"".join(encode(frame)))


def forged(values, body=b"", *, magic=MAGIC, version=VERSION, zero=0):
    """A frame with a true prefix around any header."""
    header = values if isinstance(values, bytes) else json.dumps(values).encode()
    return bytearray(PREFIX.pack(magic, version, zero, len(header), len(body)) + header + body)


def header(tensors=(), **more):
    return {"kind": "signal", "meta": {}, "tensors": list(tensors), **more}


@pytest.fixture
def frame():
    tensors = {
        "states": torch.randn(3, 5).bfloat16(),
        "scale": torch.rand(3),
        "empty": torch.empty(0, 7),
        "one": torch.tensor(3.0, dtype=torch.float64),
        "indices": torch.tensor([0, 65535], dtype=torch.uint16),
        "mask": torch.tensor([True, False]),
    }
    return Frame("signal", {"teacher": "ünï", "rows": [1, 2.5, None, {"a": True}]}, tensors)


def same(one, other):
    assert (one.kind, one.meta, list(one.tensors)) == (other.kind, other.meta, list(other.tensors))
    for name, tensor in one.tensors.items():
        assert (tensor.dtype, tensor.shape) == (other.tensors[name].dtype, other.tensors[name].shape)
        assert torch.equal(tensor, other.tensors[name])


def test_it_comes_back_bit_for_bit(frame):
    same(decode(raw(frame)), frame)
    same(decode(bytes(raw(frame))), frame)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype(dtype):
    whole = torch.arange(11).to(dtype)
    same(decode(raw(Frame("x", {}, {"t": whole}))), Frame("x", {}, {"t": whole}))


def test_non_finite_values_and_strides_survive():
    tensor = torch.tensor([[float("nan"), float("inf")], [-0.0, 1e-45]])
    back = decode(raw(Frame("x", {}, {"t": tensor.T}))).tensors["t"]
    assert back.numpy().tobytes() == tensor.T.contiguous().numpy().tobytes()


def test_the_announced_length_is_the_length(frame):
    assert frame_bytes(frame) == len(raw(frame)) == frame_length(raw(frame)[: PREFIX.size])


def test_tensors_begin_where_a_cache_line_does(frame):
    lengths = [len(part) for part in encode(frame)]
    assert lengths[0] % ALIGNMENT == 0
    assert sum(lengths) % ALIGNMENT == 0


def test_tensors_are_not_copied_on_the_way_out_nor_in():
    tensor = torch.zeros(1024)
    buffers = encode(Frame("x", {}, {"t": tensor}))
    tensor[7] = 1.0
    whole = bytearray(b"".join(buffers))
    back = decode(whole).tensors["t"]
    assert back[7] == 1.0
    back[0] = 5.0
    assert np.frombuffer(whole, np.float32)[-1024] == 5.0


def test_a_socket_carries_it(frame):
    """As a reader does: the prefix first, then just as much as it announces."""
    one, other = socket.socketpair()
    sender = threading.Thread(target=lambda: [one.sendall(part) for part in encode(frame)])
    sender.start()
    first = other.recv(PREFIX.size, socket.MSG_WAITALL)
    rest = other.recv(frame_length(first) - len(first), socket.MSG_WAITALL)
    sender.join()
    same(decode(first + rest), frame)


@pytest.mark.parametrize(
    ("bytes_", "why"),
    [
        (b"", "begins with 20 bytes and 0 came"),
        (b"PSTL", "begins with 20 bytes and 4 came"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "are no frame"),
        (forged(header(), magic=b"pstl"), "are no frame"),
        (forged(header(), zero=1), "are no frame"),
        (forged(header(), version=2), "version 2 and this program reads 1"),
        (forged(header()) + b"x", "it was cut or padded"),
        (forged(header())[:-1], "it was cut or padded"),
        (forged(header(), b"x" * 64), "64 bytes that belong to no tensor"),
        (forged(b"\xff{}"), "not JSON"),
        (forged(b"[" * 100_000), "not JSON"),
        (forged(b'{"kind":"x","meta":{"a":NaN},"tensors":[]}'), "not JSON"),
        (forged(b'{"kind":"x","kind":"y","meta":{},"tensors":[]}'), "a name occurs twice"),
        (forged(b'{"kind":"x","meta":{"a":' + b"9" * 10_000 + b'},"tensors":[]}'), "not JSON"),
        (forged([]), "kind, meta and tensors alone"),
        (forged({"kind": "x", "meta": {}}), "kind, meta and tensors alone"),
        (forged(header(more=1)), "kind, meta and tensors alone"),
        (forged(header(kind="../../etc")), "short word in lower case"),
        (forged(header(kind=5)), "short word in lower case"),
        (forged(header(meta=[])), "meta is no object"),
        (forged(header([["t", "F32", [0]]] * 2)), "a tensor twice"),
        (forged(header([[f"t{i}", "F32", [0]] for i in range(1025)])), "more than 1024 tensors"),
        (forged(header(["t"])), "is no tensor"),
        (forged(header([["t", "O", [1]]])), "is no tensor"),
        (forged(header([["t", ["F32"], [1]]])), "is no tensor"),
        (forged(header([["t" * 101, "F32", [1]]])), "is no tensor"),
        (forged(header([["t", "F32", [-1]]])), "has shape"),
        (forged(header([["t", "F32", [True]]])), "has shape"),
        (forged(header([["t", "F32", [1.0]]])), "has shape"),
        (forged(header([["t", "F32", [1] * 9]])), "has shape"),
        (forged(header([["t", "F32", [2**32, 2**32]]])), "ends before its tensor"),
        (forged(header([["t", "F32", [2**32, 0, 2**32]]])), ""),
        (forged(header([["t", "F32", [17]]]), bytes(64)), "ends before its tensor"),
        (forged(header([["t", "BOOL", [64]]]), b"\x02" * 64), "neither 0 nor 1"),
    ],
)  # fmt: skip
def test_what_is_no_frame_is_refused(bytes_, why):
    if not why:
        assert decode(bytes_).tensors["t"].numel() == 0
        return
    with pytest.raises(SignalError, match=why):
        decode(bytes_)


def test_lengths_are_refused_before_anything_is_read():
    with pytest.raises(SignalError, match="4,294,967,296 are taken"):
        frame_length(PREFIX.pack(MAGIC, VERSION, 0, 10, 1 << 40))
    with pytest.raises(SignalError, match="and 1,000 are taken"):
        frame_length(PREFIX.pack(MAGIC, VERSION, 0, 10, 1001), limit=1000)
    with pytest.raises(SignalError, match="a header of"):
        frame_length(PREFIX.pack(MAGIC, VERSION, 0, LARGEST_HEADER + 1, 0))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (Frame("x", {"a": float("nan")}), "must be JSON"),
        (Frame("x", {"a": object()}), "must be JSON"),
        (Frame("Not A Kind"), "short word"),
        (Frame("x", {}, {"t": torch.zeros(2, dtype=torch.complex64)}), "which no frame carries"),
        (Frame("x", {"a": "x" * LARGEST_HEADER}), "at most 1,048,576 are allowed"),
    ],
)  # fmt: skip
def test_what_could_not_be_read_is_not_written(made, why):
    with pytest.raises(SignalError, match=why):
        encode(made)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_an_error(bytes_):
    for made in (bytes_, forged(bytes_), forged(header([["t", "F16", [4]]]), bytes_)):
        with contextlib.suppress(SignalError):
            decode(made)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_byte_of_a_true_frame_may_change(data):
    whole = raw(Frame("signal", {"rows": ["a"]}, {"t": torch.arange(20), "u": torch.ones(3, 2).half()}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SignalError):
        decode(whole[: data.draw(st.integers(0, len(whole)))])
