"""One file of a store: frames of one row each, appended one behind the other, and the index that seals it.

A shard that is still written to has no index; what is in it is found by reading it, and ends where the first record is
not whole. A sealed one is never written again: its index holds the place of every row, and the manifest the hashes of
both files.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from potstill.core.errors import SignalError
from potstill.durable import sha256
from potstill.teachers.framing import PREFIX
from potstill.teachers.manifest import Sealed
from potstill.teachers.wire import Frame, decode, encode, frame_length

RECORD, INDEX = "row", "index"
_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row lies: offset and length in bytes."""

    offset: int
    length: int


def record_of(row: Frame) -> list[bytes | memoryview]:
    """The bytes of one row's signal. What is the same for all rows stays in the manifest; a checksum comes instead."""
    meta = {"row": row.meta["rows"][0], "asked": row.meta["asked"][0], "read": row.meta["read"][0]}
    return encode(Frame(RECORD, {**meta, "crc32": _crc32(row)}, row.tensors))


def row_of(buffer: bytearray | memoryview, key: str, terms: Mapping[str, Any], place: str) -> Frame:
    """The signal of the row `key`, as `rows_of` made it. place: said to the user.

    Raises SignalError when the bytes are not those that were written, or another row's.
    """
    record = decode(buffer)
    found = _meta(record, place)
    if found["row"] != key or found["crc32"] != _crc32(record):
        raise SignalError(
            f"{place} is damaged where row {key} lies (its checksum is not what was written): run again, and the store "
            "is checked and its damaged part asked for anew"
        )
    meta = {**terms, "rows": [key], "asked": [found["asked"]], "read": [found["read"]]}
    return Frame("signal", meta, record.tensors)


def scanned(path: Path) -> Iterator[tuple[str, Place]]:
    """Every whole row of a shard, in order; stops before the first that is cut or damaged. Holds one at a time."""
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset + PREFIX.size <= size:
            prefix = file.read(PREFIX.size)
            try:
                length = frame_length(prefix)
                if offset + length > size:
                    return
                record = decode(bytearray(prefix + file.read(length - PREFIX.size)))
                meta = _meta(record, str(path))
            except SignalError:
                return
            if meta["crc32"] != _crc32(record):
                return
            yield meta["row"], Place(offset, length)
            offset += length


def index_of(places: Mapping[str, Place]) -> Frame:
    """Rows in the order of their keys, so that one is found in a mapped index without reading it."""
    keys = sorted(places, key=_halves)
    columns = {
        "highs": [_halves(key)[0] for key in keys],
        "lows": [_halves(key)[1] for key in keys],
        "offsets": [places[key].offset for key in keys],
        "lengths": [places[key].length for key in keys],
    }
    return Frame(INDEX, {}, {name: torch.tensor(values, dtype=torch.int64) for name, values in columns.items()})


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The halves of each row's key, sorted by the first, and where the row lies."""

    highs: Int[np.ndarray, " R"]
    lows: Int[np.ndarray, " R"]
    offsets: Int[np.ndarray, " R"]
    lengths: Int[np.ndarray, " R"]

    @classmethod
    def of(cls, frame: Frame) -> ShardIndex:
        """Raises SignalError when the frame is no index."""
        names = [one.name for one in fields(cls)]
        shapes = {(tensor.dtype, tensor.dim(), tensor.numel()) for tensor in frame.tensors.values()}
        if (
            frame.kind != INDEX
            or list(frame.tensors) != names
            or len(shapes) != 1
            or shapes.pop()[:2] != (torch.int64, 1)
        ):
            raise SignalError("this is no index of a shard")
        return cls(*(frame.tensors[name].numpy() for name in names))

    def find(self, key: str) -> Place | None:
        """Where a row lies, if it is here."""
        high, low = _halves(key)
        at = int(np.searchsorted(self.highs, high))
        while at < len(self.highs) and self.highs[at] == high:
            if self.lows[at] == low:
                return Place(int(self.offsets[at]), int(self.lengths[at]))
            at += 1
        return None


def seal_of(path: Path, index: Path, rows: int) -> Sealed:
    """The manifest's line of a finished shard."""
    return Sealed(path.name, rows, path.stat().st_size, sha256(path), sha256(index))


def damage(path: Path, index: Path, seal: Sealed) -> str | None:
    """What is wrong with a sealed shard, in words; None when it is as it was written."""
    for file, digest in ((path, seal.sha256), (index, seal.index_sha256)):
        if not file.exists():
            return f"{file} is missing"
        if file == path and file.stat().st_size != seal.bytes:
            return f"{file} has {file.stat().st_size:,} bytes and {seal.bytes:,} were written"
        if sha256(file) != digest:
            return f"{file} is not as it was written (its SHA-256 is not {digest[:12]}…)"
    return None


def _meta(record: Frame, place: str) -> Mapping[str, Any]:
    meta, kinds = record.meta, {"row": str, "asked": int, "read": int, "crc32": int}
    typed = meta.keys() == kinds.keys() and all(type(meta[name]) is kind for name, kind in kinds.items())
    if record.kind != RECORD or not typed or not _KEY.fullmatch(meta["row"]):
        raise SignalError(f"{place} is damaged: a record of it is no row")
    return meta


def _crc32(row: Frame) -> int:
    found = 0
    for tensor in row.tensors.values():
        if tensor.numel():
            dense = tensor.detach().cpu().contiguous().reshape(-1)
            found = zlib.crc32(memoryview(dense.view(torch.uint8).numpy()), found)
    return found


def _halves(key: str) -> tuple[int, int]:
    """32 hexadecimal digits as two signed words."""
    raw = bytes.fromhex(key)
    return int.from_bytes(raw[:8], "little", signed=True), int.from_bytes(raw[8:], "little", signed=True)


def cut_to(path: Path, size: int) -> None:
    """Forget everything behind `size`, on the disk too."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(file, size)
        os.fsync(file)
    finally:
        os.close(file)
