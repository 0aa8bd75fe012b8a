"""The one format in which a signal, a head or a question travels and lies on a disk: a frame.

A frame is a prefix of 20 bytes (magic, version, two zero bytes, length of the header, length of the body; all little
endian), a header of JSON and a body of raw tensors, one after the other, each begun at a multiple of 64 bytes. Nothing
in a frame is ever executed, and its two lengths are known, and held against a limit, before a byte more is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from potstill.core.errors import SignalError
from potstill.teachers.framing import ALIGNMENT, MAGIC, PREFIX, VERSION, aligned, body_bytes, header_of

LARGEST_HEADER = 1 << 20
LARGEST_BODY = 1 << 32
MOST_TENSORS, MOST_AXES = 1024, 8
# Names are those of safetensors.
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_KIND = re.compile(r"[a-z][a-z0-9-]{0,39}")
_AGAIN = "whoever sent or wrote it does not speak this format; check address and version on both sides"


@dataclass(frozen=True, slots=True)
class Frame:
    """kind: what this is (`signal`, `head`, ...), in lower case. meta: JSON values, without NaN and infinities.
    tensors: in the order in which they travel; dense, on the CPU when they come from `decode`."""

    kind: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def encode(frame: Frame) -> list[bytes | memoryview]:
    """Buffers to be written one behind the other. Tensors that lie dense on the CPU are not copied: do not change
    them before the buffers are written. Raises SignalError for what `decode` would refuse."""
    header, body = _header(frame)
    buffers: list[bytes | memoryview] = [PREFIX.pack(MAGIC, VERSION, 0, len(header), body) + header]
    for tensor in frame.tensors.values():
        dense = tensor.detach().cpu().contiguous().reshape(-1)
        if not dense.numel():
            continue
        buffers.append(memoryview(dense.view(torch.uint8).numpy()))
        if hole := -dense.nbytes % ALIGNMENT:
            buffers.append(bytes(hole))
    return buffers


def frame_bytes(frame: Frame) -> int:
    """Length of the encoded frame, all included; no tensor is touched."""
    header, body = _header(frame)
    return PREFIX.size + len(header) + body


def frame_sha256(frame: Frame) -> str:
    """Hash of the encoded frame: equal kind, meta and tensors give equal bytes."""
    digest = hashlib.sha256()
    for part in encode(frame):
        digest.update(part)
    return digest.hexdigest()


def frame_length(prefix: bytes | bytearray | memoryview, *, limit: int = LARGEST_BODY) -> int:
    """From the first PREFIX.size bytes, how long the whole frame is. limit: the largest body taken.

    Raises SignalError for another format or version, and for a frame that is too large to be taken.
    """
    if len(prefix) < PREFIX.size:
        raise SignalError(f"a frame begins with {PREFIX.size} bytes and {len(prefix)} came: {_AGAIN}")
    magic, version, zero, header, body = PREFIX.unpack(bytes(prefix[: PREFIX.size]))
    if magic != MAGIC or zero:
        raise SignalError(f"these bytes are no frame (they begin with {magic!r}, not {MAGIC!r}): {_AGAIN}")
    if version != VERSION:
        raise SignalError(f"the frame has version {version} and this program reads {VERSION}: update the older side")
    if header > LARGEST_HEADER or body > limit:
        raise SignalError(
            f"the frame has a header of {header:,} and a body of {body:,} bytes, and {LARGEST_HEADER:,} and {limit:,} "
            "are taken: ask for fewer rows at once, or raise the limit"
        )
    return PREFIX.size + header + body


def decode(buffer: bytes | bytearray | memoryview, *, limit: int = LARGEST_BODY) -> Frame:
    """The frame that fills `buffer`. Its tensors look into the buffer when that may be written to (they keep it
    alive; do not reuse it), else into one copy. Raises SignalError, and nothing else, whatever the bytes are."""
    view = memoryview(buffer).cast("B")
    length = frame_length(view[: PREFIX.size], limit=limit)
    if length != len(view):
        raise SignalError(f"the frame announces {length:,} bytes and has {len(view):,}: it was cut or padded; again")
    if view.readonly:
        view = memoryview(bytearray(view))
    header_end = length - PREFIX.unpack(view[: PREFIX.size])[4]
    header = _parsed(bytes(view[PREFIX.size : header_end]))
    tensors, at = {}, header_end
    for name, dtype, shape in _listed(header["tensors"]):
        count = math.prod(shape)
        end = at + count * dtype.itemsize
        if end > length:
            raise SignalError(f"the frame ends before its tensor `{name}` {shape}: {_AGAIN}")
        tensors[name] = _tensor(view[at:end], dtype, shape)
        at += aligned(end - at)
    if at != length:
        raise SignalError(f"the frame holds {length - at:,} bytes that belong to no tensor: {_AGAIN}")
    return Frame(header["kind"], header["meta"], tensors)


def _tensor(view: memoryview, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not len(view):
        return torch.empty(shape, dtype=dtype)
    if dtype == torch.bool and int(torch.frombuffer(view, dtype=torch.uint8).max()) > 1:
        raise SignalError(f"a frame holds truth values that are neither 0 nor 1: {_AGAIN}")
    return torch.frombuffer(view, dtype=dtype).reshape(shape)


def _header(frame: Frame) -> tuple[bytes, int]:
    """The JSON with what fills it up, and the length of the body."""
    assert sys.byteorder == "little", "tensors travel as they lie in memory, little endian"
    listed = []
    for name, tensor in frame.tensors.items():
        if tensor.dtype not in _NAMES:
            raise SignalError(f"tensor `{name}` is {tensor.dtype}, which no frame carries: send {', '.join(DTYPES)}")
        listed.append((name, _NAMES[tensor.dtype], list(tensor.shape)))
    try:
        text = header_of(frame.kind, frame.meta, listed)
    except (ValueError, TypeError) as error:
        raise SignalError(f"a frame's header must be JSON ({error}): send other values") from error
    if len(text) > LARGEST_HEADER:
        raise SignalError(f"a header of {len(text):,} bytes, at most {LARGEST_HEADER:,} are allowed: send fewer rows")
    _checked({"kind": frame.kind, "meta": frame.meta, "tensors": [list(entry) for entry in listed]})
    return text, body_bytes(listed)


def _parsed(raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    def refused(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        values = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=refused)
    except (ValueError, RecursionError) as error:
        raise SignalError(f"the frame's header is not JSON ({str(error)[:80]}): {_AGAIN}") from error
    return _checked(values)


def _checked(values: Any) -> dict[str, Any]:
    """A header that says what it must and nothing else."""
    if not isinstance(values, dict) or values.keys() != {"kind", "meta", "tensors"}:
        raise SignalError(f"the frame's header does not hold kind, meta and tensors alone: {_AGAIN}")
    kind, meta, tensors = values["kind"], values["meta"], values["tensors"]
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise SignalError(f"a frame's kind is a short word in lower case, not {str(kind)[:40]!r}: {_AGAIN}")
    if not isinstance(meta, Mapping) or not isinstance(tensors, list) or len(tensors) > MOST_TENSORS:
        raise SignalError(f"the frame's meta is no object, or it lists more than {MOST_TENSORS} tensors: {_AGAIN}")
    names = {name for name, _, _ in _listed(tensors)}
    if len(names) != len(tensors):
        raise SignalError(f"the frame lists a tensor twice: {_AGAIN}")
    return values


def _listed(tensors: list[Any]) -> list[tuple[str, torch.dtype, list[int]]]:
    found = []
    for entry in tensors:
        name, dtype, shape = entry if isinstance(entry, list) and len(entry) == 3 else (None, None, None)
        sound = isinstance(shape, list) and len(shape) <= MOST_AXES
        if not isinstance(name, str) or len(name) > 100 or not isinstance(dtype, str) or dtype not in DTYPES:
            raise SignalError(f"the frame lists {str(entry)[:80]!r}, which is no tensor: {_AGAIN}")
        if not sound or not all(type(size) is int and 0 <= size <= LARGEST_BODY for size in shape):
            raise SignalError(f"the frame's tensor `{name[:40]}` has shape {str(shape)[:80]}: {_AGAIN}")
        found.append((name, DTYPES[dtype], shape))
    return found
