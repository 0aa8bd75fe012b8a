"""Signals on a disk: a teacher is asked once, and any number of students learn from what it said.

    store.json               what all rows share (teacher, form, temperature, layers), and every finished shard
    head-SHA256.frame        the teacher's head, where last states are stored
    shard-000000.rows        frames of one row each; sealed when full
    shard-000000.rows.index  where each row of a sealed shard lies

Rows are only ever appended, so a process that is killed leaves at most one record that is cut; the next writer removes
it. Readers need no lock and map sealed shards, a few at a time, so memory does not grow with the store.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.core.errors import FolderError, SignalError
from potstill.durable import flush, replace_file, write_all, writing
from potstill.teachers.manifest import MANIFEST, SHARD_NAME, Sealed, read_manifest, write_manifest
from potstill.teachers.shard import (
    Place,
    ShardIndex,
    cut_to,
    damage,
    index_of,
    record_of,
    row_of,
    scanned,
    seal_of,
)
from potstill.teachers.wire import Frame, decode, encode

LOCK = ".lock"
SHARD_BYTES = 256 << 20
# Shards that are mapped at once, and with SHARD_BYTES the most that reading can hold.
MAPPED = 4


class SignalStore:
    """The rows of one teacher in one form.

    terms: as `Packing.as_meta` gives them; None takes what the folder says. shard_bytes: a shard is sealed when it is
    longer. Raises SignalError when the folder holds another teacher's signals or its manifest cannot be read.
    """

    def __init__(self, folder: Path, terms: dict[str, Any] | None = None, *, shard_bytes: int = SHARD_BYTES):
        self.folder = folder
        self._shard_bytes = shard_bytes
        self._lock: int | None = None
        self._file: int | None = None
        self._mapped: OrderedDict[str, mmap.mmap] = OrderedDict()
        self._terms = terms
        self._refresh()

    @property
    def terms(self) -> dict[str, Any]:
        """What all rows share."""
        assert self._terms is not None, "a store that was opened has terms"
        return self._terms

    @property
    def rows(self) -> int:
        """Rows that can be read."""
        return sum(seal.rows for seal in self._seals) + len(self._open)

    def find(self, keys: Sequence[str]) -> list[Frame | None]:
        """The signal of each row that is here.

        Raises SignalError naming the shard when the bytes are not those that were written.
        """
        return [self._read(key) for key in keys]

    def __contains__(self, key: str) -> bool:
        return key in self._open or any(index.find(key) for index in self._indices)

    def append(self, rows: Sequence[Frame]) -> None:
        """Add rows (`codec.rows_of`); those that are here already are left as they are.

        Raises FolderError when another process writes here, DiskError when the disk is full: then nothing is added.
        """
        self._begin()
        assert self._file is not None, "a store that was begun has an open shard"
        for row in rows:
            key = row.meta["rows"][0]
            if key in self:
                continue
            if self._size > self._shard_bytes:
                self.seal()
                self._begin()
            parts = record_of(row)
            try:
                with writing(self._shard, needed=sum(len(part) for part in parts)):
                    for part in parts:
                        write_all(self._file, part)
            except BaseException:
                os.ftruncate(self._file, self._size)
                os.lseek(self._file, self._size, os.SEEK_SET)
                raise
            length = sum(len(part) for part in parts)
            self._open[key] = Place(self._size, length)
            self._size += length

    def seal(self) -> None:
        """Finish the open shard: flushed, indexed, and vouched for by the manifest. Nothing happens without one."""
        if self._file is None:
            return
        with writing(self._shard):
            os.fsync(self._file)
            os.close(self._file)
            self._file = None
            if self._open:
                index = self._index(self._shard.name)
                replace_file(index, b"".join(encode(index_of(self._open))))
                self._seals.append(seal_of(self._shard, index, len(self._open)))
                write_manifest(self.folder, self.terms, self._seals)
            else:
                self._shard.unlink()
        self._refresh()

    def close(self) -> None:
        """Seal, also what a killed process left open, and let another process write."""
        if self._open:
            try:
                self._begin()
            except FolderError:
                return  # whoever writes here now will seal it
        self.seal()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._mapped.clear()

    def verify(self) -> list[str]:
        """Hash every sealed shard; each that is damaged is set aside as NAME.damaged, and its rows are missing from now
        on, to be asked for again. Returns what was wrong with them, in words. Needs the right to write only then."""
        wrong = {seal: damage(self._path(seal.name), self._index(seal.name), seal) for seal in self._seals}
        found = [f"{reason}: its {seal.rows} rows will be asked for again" for seal, reason in wrong.items() if reason]
        if found:
            self._take_lock()
            for seal, reason in wrong.items():
                if reason:
                    self._set_aside(seal)
            self._seals = [seal for seal, reason in wrong.items() if not reason]
            with writing(self.folder):
                write_manifest(self.folder, self.terms, self._seals)
            self._refresh()
        return found

    def _set_aside(self, seal: Sealed) -> None:
        path, index = self._path(seal.name), self._index(seal.name)
        with writing(path):
            if path.exists():
                path.replace(path.with_name(f"{path.name}.damaged"))
            index.unlink(missing_ok=True)

    def _read(self, key: str) -> Frame | None:
        if key in self._open:
            place = self._open[key]
            with self._shard.open("rb") as file:
                buffer = bytearray(place.length)
                if os.preadv(file.fileno(), [buffer], place.offset) != place.length:
                    raise SignalError(f"{self._shard} ends before row {key}: it was cut while it was read")
            return row_of(buffer, key, self.terms, str(self._shard))
        for seal, index in zip(self._seals, self._indices, strict=True):
            if place := index.find(key):
                path = self._path(seal.name)
                if place.offset < 0 or place.length <= 0 or place.offset + place.length > seal.bytes:
                    raise SignalError(f"{self._index(seal.name)} is damaged: row {key} would lie outside of {path}")
                view = memoryview(self._map(path))[place.offset : place.offset + place.length]
                return row_of(view, key, self.terms, str(path))
        return None

    def _map(self, path: Path) -> mmap.mmap:
        """Private pages, which a tensor may look into; the file cannot be written through them."""
        if path.name not in self._mapped:
            try:
                with path.open("rb") as file:
                    self._mapped[path.name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise SignalError(f"{path} cannot be read ({error}): check the store") from error
            if len(self._mapped) > MAPPED:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(path.name)
        return self._mapped[path.name]

    def _refresh(self) -> None:
        """Read the folder again, as it is now."""
        self._terms, self._seals = read_manifest(self.folder, self._terms)
        self._indices = [self._opened(seal) for seal in self._seals]
        self._shard = self._path(f"shard-{self._next():06d}.rows")
        self._open = dict(scanned(self._shard)) if self._shard.exists() else {}
        self._size = sum(place.length for place in self._open.values())

    def _next(self) -> int:
        """The number of the open shard: after every one that was ever sealed or set aside."""
        taken = [seal.name for seal in self._seals]
        taken += [path.name.removesuffix(".damaged") for path in self.folder.glob("shard-*.rows.damaged")]
        return max((int(name[6:12]) for name in taken if SHARD_NAME.fullmatch(name)), default=-1) + 1

    def _opened(self, seal: Sealed) -> ShardIndex:
        try:
            with self._index(seal.name).open("rb") as file:
                return ShardIndex.of(decode(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))))
        except (OSError, ValueError):
            # `verify` names it; until then its rows are simply not found.
            return ShardIndex.of(index_of({}))

    def _begin(self) -> None:
        """Take the right to write, cut off what a killed writer left half done, and open the shard."""
        if self._file is not None:
            return
        self._take_lock()
        with writing(self._shard):
            if not (self.folder / MANIFEST).exists():
                write_manifest(self.folder, self.terms, self._seals)
            if self._shard.exists() and self._shard.stat().st_size > self._size:
                cut_to(self._shard, self._size)
            self._file = os.open(self._shard, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            flush(self.folder)

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise FolderError(
                f"{self.folder} is being written by another process ({error.strerror}), and rows are missing here: "
                "wait until it is done, or name another folder"
            ) from error
        self._lock = file
        self._refresh()

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _index(self, name: str) -> Path:
        return self.folder / f"{name}.index"
