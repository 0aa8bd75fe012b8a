"""The head on the student's node: by hash, once, and nothing else under its name."""

import dataclasses

import pytest
import torch

from potstill.core.errors import SignalError
from potstill.core.signal import OutputHead
from potstill.teachers.head import HeadShelf, pack_head, unpack_head
from potstill.teachers.identity import Identity
from potstill.teachers.wire import Frame, decode, encode
from tests.teachers.speech import IDENTITY, D, V, head_frame


@pytest.fixture
def shelf(tmp_path):
    return HeadShelf(tmp_path / "heads")


class Source:
    """A teacher that is asked for its head."""

    def __init__(self, frame):
        self.frame, self.asked = frame, []

    def __call__(self, sha256):
        self.asked.append(sha256)
        return decode(bytearray(b"".join(encode(self.frame))))


def test_logits_by_hand():
    """z = scale * (W h + b), then softcap * tanh(z / softcap), as core.signal.OutputHead says."""
    head = OutputHead(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0.5, -1.0]), scale=2.0, softcap=10.0)
    z = torch.tensor([[2 * (3 + 0.5), 2 * (4 * 2 - 1)]])
    torch.testing.assert_close(head.logits(torch.tensor([[3.0, 4.0]])), 10 * torch.tanh(z / 10))


def test_it_is_fetched_once_and_kept(shelf):
    source = Source(head_frame())
    digest = unpack_head(source.frame).sha256
    first = shelf.get(digest, identity=IDENTITY, fetch=source)
    again = HeadShelf(shelf.folder).get(digest, identity=IDENTITY)
    assert source.asked == [digest]
    for head in (first, again):
        assert torch.equal(head.head.weight_VD, source.frame.tensors["weight"])
        assert torch.equal(head.channels_D, source.frame.tensors["channels"])
        assert (head.head.softcap, head.width, head.sha256) == (30.0, D, digest)


def test_the_file_cannot_be_written_through_the_tensor(shelf):
    digest = shelf.put(head_frame())
    shelf.get(digest).head.weight_VD.zero_()
    assert shelf.get(digest).head.weight_VD.any()


@pytest.mark.parametrize("damage", [b"", b"<html>", "flip", "cut"])
def test_a_damaged_file_is_fetched_again(shelf, damage):
    digest = shelf.put(head_frame())
    path = next(shelf.folder.iterdir())
    raw = bytearray(path.read_bytes())
    raw[-70] ^= 1
    path.write_bytes(damage if isinstance(damage, bytes) else raw if damage == "flip" else raw[:-1])
    with pytest.raises(SignalError, match=r"head-.*Delete it"):
        shelf.get(digest)
    source = Source(head_frame())
    assert shelf.get(digest, fetch=source).sha256 == digest
    assert source.asked == [digest]
    assert shelf.get(digest).sha256 == digest


def test_another_head_is_refused(shelf):
    other = Frame("head", head_frame().meta, {**head_frame().tensors, "weight": torch.zeros(V, D)})
    digest = unpack_head(head_frame()).sha256
    with pytest.raises(SignalError, match="was asked for and"):
        shelf.get(digest, fetch=Source(other))
    assert not shelf.folder.exists()
    with pytest.raises(SignalError, match="there is no teacher to ask"):
        shelf.get(digest)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 10_000])
def test_a_head_is_named_by_nothing_but_a_hash(shelf, name):
    """Fault 27."""
    with pytest.raises(SignalError, match="is no SHA-256"):
        shelf.get(name, fetch=Source(head_frame()))


def test_every_change_changes_the_hash():
    base = unpack_head(head_frame())
    frames = [
        pack_head(base.head, IDENTITY),
        pack_head(base.head, IDENTITY, base.channels_D * 2),
        pack_head(base.head, dataclasses.replace(IDENTITY, softcap=None), base.channels_D),
        pack_head(dataclasses.replace(base.head, bias_V=torch.zeros(V)), IDENTITY, base.channels_D),
        pack_head(dataclasses.replace(base.head, weight_VD=base.head.weight_VD.half()), IDENTITY, base.channels_D),
    ]
    assert len({base.sha256, *(unpack_head(frame).sha256 for frame in frames)}) == 6


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({}, "without a weight"),
        ({"weight": torch.zeros(V)}, "without a weight"),
        ({"weight": torch.zeros(V, D, dtype=torch.int8)}, "without a weight"),
        ({"weight": torch.zeros(V, 0)}, "without a weight"),
        ({"weight": torch.zeros(V + 2, D)}, f"makes {V + 2} logits and its teacher announces {V}"),
        ({"weight": torch.full((V, D), torch.nan)}, "not finite"),
        ({"weight": torch.zeros(V, D), "bias": torch.zeros(V + 1)}, "`bias`"),
        ({"weight": torch.zeros(V, D), "more": torch.zeros(V)}, "`more`"),
        ({"weight": torch.zeros(V, D), "channels": torch.zeros(D)}, "not all above 0"),
    ],
)
def test_tensors_that_are_no_head(tensors, why):
    """Fault 21: a padded vocabulary is said, never cut."""
    with pytest.raises(SignalError, match=why):
        unpack_head(Frame("head", {"teacher": IDENTITY.as_meta()}, tensors))


def test_other_frames_and_teachers_are_refused():
    with pytest.raises(SignalError, match="a `signal` came"):
        unpack_head(Frame("signal"))
    with pytest.raises(SignalError, match="does not say who it is"):
        unpack_head(Frame("head", {}, head_frame().tensors))
    with pytest.raises(SignalError, match="the head is by another teacher: weights"):
        unpack_head(head_frame(), identity=Identity("x" * 64, "t" * 64, V))
