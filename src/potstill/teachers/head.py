"""The teacher's head on the student's node: fetched once by its hash, kept, and never trusted by its name."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.core.errors import SignalError
from potstill.core.signal import OutputHead
from potstill.durable import settle, writing
from potstill.teachers.identity import Identity
from potstill.teachers.wire import Frame, decode, encode, frame_sha256

KIND = "head"


@dataclass(frozen=True, slots=True)
class KeptHead:
    """A head with what belongs to it for a whole run.

    channels_D: the static scales of int8 states, None where nobody calibrated. sha256: of its frame; every signal of
    last states names the head it is meant for by this.
    """

    head: OutputHead
    identity: Identity
    channels_D: Float[Tensor, " D"] | None
    sha256: str

    @property
    def width(self) -> int:
        """Width of the last states."""
        return self.head.weight_VD.shape[1]


def pack_head(head: OutputHead, identity: Identity, channels_D: Float[Tensor, " D"] | None = None) -> Frame:
    """The frame that carries a head, in its own precision: rounding it would change every logit."""
    tensors = {"weight": head.weight_VD, "bias": head.bias_V, "channels": channels_D}
    meta = {"teacher": identity.as_meta()}
    frame = Frame(KIND, meta, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    _check(frame, identity)
    return frame


def unpack_head(frame: Frame, *, sha256: str | None = None, identity: Identity | None = None) -> KeptHead:
    """The head in a frame. sha256, identity: what was asked for, where that is known.

    Raises SignalError when it is another head, another teacher's, or its tensors do not fit each other.
    """
    if frame.kind != KIND:
        raise SignalError(f"a head was asked for and a `{frame.kind}` came: check the address of the teacher")
    found = Identity.from_meta(frame.meta.get("teacher"))
    if identity is not None:
        identity.refuse_another(found, "the head")
    _check(frame, found)
    digest = frame_sha256(frame)
    if sha256 is not None and digest != sha256:
        raise SignalError(f"head {sha256[:12]}… was asked for and {digest[:12]}… came: it is damaged or another; again")
    tensors = frame.tensors
    head = OutputHead(tensors["weight"], tensors.get("bias"), found.scale, found.softcap)
    return KeptHead(head, found, tensors.get("channels"), digest)


def _check(frame: Frame, identity: Identity) -> None:
    weight = frame.tensors.get("weight")
    if weight is None or weight.dim() != 2 or not weight.is_floating_point() or not weight.shape[1]:
        raise SignalError("a head without a weight of [vocabulary, width]: ask the teacher again")
    entries, width = weight.shape
    if entries != identity.vocabulary_size:
        raise SignalError(
            f"the head makes {entries} logits and its teacher announces {identity.vocabulary_size}: start the teacher "
            "again with the model it announces"
        )
    for name, tensor in frame.tensors.items():
        expected = {"weight": (entries, width), "bias": (entries,), "channels": (width,)}.get(name)
        if tuple(tensor.shape) != expected or not tensor.is_floating_point() or not _finite(tensor):
            raise SignalError(
                f"the head's `{name}` is {tuple(tensor.shape)} and not finite numbers of shape {expected}: again"
            )
    channels = frame.tensors.get("channels")
    if channels is not None and float(channels.min()) <= 0:
        raise SignalError("the head's channel scales are not all above 0: calibrate the teacher again")


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.sum(dtype=torch.float64)))


@dataclass(frozen=True, slots=True)
class HeadShelf:
    """Heads in a folder, one file each, named by hash; read back by mapping the file into memory."""

    folder: Path

    def put(self, frame: Frame) -> str:
        """Keep a head; returns its hash. Raises DiskError and FolderError when the disk refuses."""
        digest = unpack_head(frame).sha256
        path = self._path(digest)
        if not path.exists():
            aside = path.with_suffix(".partial")
            with writing(path):
                self.folder.mkdir(parents=True, exist_ok=True)
                with aside.open("wb") as file:
                    file.writelines(encode(frame))
                settle(aside, path)
        return digest

    def get(
        self, sha256: str, *, identity: Identity | None = None, fetch: Callable[[str], Frame] | None = None
    ) -> KeptHead:
        """The head with this hash: from the folder, else by `fetch`, which is asked at most once.

        Raises SignalError when neither has it; a damaged file is fetched again, or named when that cannot be.
        """
        path = self._path(sha256)
        if path.exists():
            try:
                return unpack_head(_mapped(path), sha256=sha256, identity=identity)
            except SignalError as error:
                if fetch is None:
                    raise SignalError(f"{path}: {error}. Delete it, and it will be fetched again") from error
                path.unlink()
        if fetch is None:
            raise SignalError(f"head {sha256[:12]}… is not in {self.folder}, and there is no teacher to ask for it")
        head = unpack_head(frame := fetch(sha256), sha256=sha256, identity=identity)
        self.put(frame)
        return head

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise SignalError(f"{sha256[:80]!r} is no SHA-256, by which heads are named: ask a teacher of this version")
        return self.folder / f"head-{sha256}.frame"


def _mapped(path: Path) -> Frame:
    """Private pages of the file: tensors over them may be written to without touching the file."""
    with path.open("rb") as file:
        try:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except ValueError as error:  # an empty file
            raise SignalError("the file is empty") from error
    return decode(memoryview(pages))
