"""The arithmetic of a step: known figures, and the bytes that a socket really counts."""

import socket
import threading
from math import prod

import pytest
import torch

from potstill.core.batch import Batch
from potstill.core.signal import HeadedStates, OutputHead, Signal
from potstill.teachers.codec import pack
from potstill.teachers.forms import FORMS
from potstill.teachers.head import pack_head, unpack_head
from potstill.teachers.identity import Identity
from potstill.teachers.packing import Packing
from potstill.teachers.wire import encode
from potstill.traffic import StepShape, chosen, price, prices, sized

TAX = StepShape(batch=8, length=2048, vocabulary=150_000, width=4096)
MAIN = [form for form, row in FORMS.items() if row.says != "layers"]


@pytest.mark.parametrize(
    ("form", "expected", "words"),
    [
        ("logits", 4_915_200_000, "4.92 GB"),
        ("logits-bf16", 4_915_200_000, "4.92 GB"),
        ("hidden-bf16", 134_217_728, "134 MB"),
        ("hidden-int8", 8 * 2048 * (4096 + 2), "67.1 MB"),
        ("top-k", 8 * 2048 * (64 * (2 + 4) + 2), "6.32 MB"),
    ],
)
def test_the_logit_tax(form, expected, words):
    """4.92 GB per teacher and not 15, 134 MB of states 4096 wide, about 6.3 MB of top-64 (KDFlow, arXiv 2603.01875)."""
    assert price(form, TAX).payload == expected
    assert sized(price(form, TAX).payload) == words


@pytest.mark.parametrize(("width", "expected"), [(5120, "168 MB"), (8192, "268 MB")])
def test_other_widths(width, expected):
    assert sized(price("hidden-bf16", StepShape(8, 2048, 150_000, width)).payload) == expected


def test_the_frame_is_within_one_percent_of_the_formula():
    for row in prices(TAX):
        assert 1 <= row.frame / row.payload < 1.001


def test_dearest_first():
    payloads = [row.payload for row in prices(TAX)]
    assert payloads == sorted(payloads, reverse=True)
    assert {row.form for row in prices(TAX)} == set(MAIN)


def counted(parts):
    """Bytes that come out of the other end of a socket."""
    one, other = socket.socketpair()
    sender = threading.Thread(target=lambda: ([one.sendall(part) for part in parts], one.close()))
    sender.start()
    total, buffer = 0, bytearray(1 << 16)
    while got := other.recv_into(buffer):
        total += got
    sender.join()
    other.close()
    return total


@pytest.mark.parametrize("form", MAIN)
@pytest.mark.parametrize(("batch", "length", "asked"), [(4, 128, 127), (2, 64, 20), (8, 32, 31)])
def test_bytes_on_a_socket_are_the_formula(form, batch, length, asked):
    """Real frames of real signals, through the kernel: within 1 % of the plain formula, and of the framed one nearly
    to the byte."""
    size, width, k = 3000, 256, 64
    identity = Identity("a" * 64, "b" * 64, size, "LlamaRMSNorm(eps=1e-05)")
    head = unpack_head(pack_head(OutputHead(torch.randn(size, width)), identity, torch.ones(width)))
    shown = (torch.arange(length) < asked).float().expand(batch, -1)
    tokens = torch.randint(0, size, (batch, length))
    made = Batch(
        ids=tuple(map(str, range(batch))),
        tokens_BL=tokens,
        attention_BL=torch.ones(batch, length, dtype=torch.bool),
        targets_BT=tokens,
        weights={"soft": shown, "hard": shown},
    )
    says = FORMS[form].says
    packing = Packing(form, identity, head if says == "hidden" else None, top_k=k if says == "top-k" else None)
    signal = Signal(identity.voice, HeadedStates(torch.randn(batch, length, width), head.head))
    expected = price(form, StepShape(batch, length, size, width, top_k=k, spoken_bytes=4, asked=asked))
    found = counted(encode(pack(signal, made, packing)))
    assert abs(found - expected.frame) <= 128
    plain = {"hidden": width * (FORMS[form].bits or 32) // 8, "logits": size * (FORMS[form].bits or 32) // 8}
    if says in plain and batch * asked * plain[says] > 128 * 1024:
        assert found == pytest.approx(prod((batch, asked, plain[says])), rel=0.01)


@pytest.mark.parametrize(
    ("shape", "more", "form"),
    [
        (TAX, {}, "hidden-bf16"),
        (StepShape(4, 256, 49_152, 576), {}, "hidden-int8"),
        (StepShape(4, 256, 49_152, 576), {"wants": "top-k"}, "top-k"),
        (StepShape(4, 256, 49_152, 576, top_k=5000), {"wants": "top-k"}, "hidden-int8"),
        (StepShape(4, 1, 57, 384), {}, "logits"),
        (TAX, {"open_weights": False}, "top-k"),
    ],
)
def test_the_form_that_is_chosen(shape, more, form):
    found, why = chosen(shape, **more)
    assert found == form
    assert why


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (99_960, "100 kB"),
        (9_996, "10.0 kB"),
        (2.5e12, "2.50 TB"),
    ],
)
def test_words(count, words):
    assert sized(count) == words
