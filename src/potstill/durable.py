"""Writing that survives a power cut: every file is flushed to the disk before anything names it complete.

A rename alone promises order only to processes, not to the disk: files, then their folder, then the rename, then the
parent folder are flushed, in this order.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from potstill.core.errors import DiskError, FolderError, PotstillError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST}
CHUNK = 1 << 20


@contextmanager
def writing(place: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn what the operating system says about a write at `place` into DiskError (full, broken) or FolderError.

    needed: bytes the whole write takes, said to the user.
    """
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        raise _explain(int(found[1]) if found else None, str(error), place, needed) from error
    except OSError as error:
        raise _explain(error.errno, error.strerror or str(error), place, needed) from error


def _explain(code: int | None, reason: str, place: Path, needed: int | None) -> PotstillError:
    if code in REFUSED:
        return FolderError(f"{place} cannot be written ({reason}): make it writable, or name another output folder")
    if code in FULL:
        want = "" if needed is None else f" {needed:,} bytes are needed,"
        return DiskError(
            f"{place}: no room to write ({reason}):{want} {free_bytes(place):,} are free. Make room and resume"
        )
    return DiskError(f"{place}: the write failed ({reason}); look at the disk, then resume")


def free_bytes(place: Path) -> int:
    """Free bytes of the disk that `place` lies on, or would lie on."""
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def write_file(path: Path, data: bytes) -> None:
    """Write and flush a new file; an existing one is replaced in place."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        write_all(file, data)
        os.fsync(file)
    finally:
        os.close(file)


def write_all(file: int, data: bytes | memoryview) -> None:
    """`os.write` may take a part only."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def replace_file(path: Path, data: bytes) -> None:
    """The whole new content or the whole old one, whatever happens."""
    aside = path.with_name(f".{path.name}.partial")
    write_file(aside, data)
    _named(aside, path)


def settle(aside: Path, path: Path) -> None:
    """Rename a finished file into place; its bytes, then its name, reach the disk before anything relies on it."""
    flush(aside)
    _named(aside, path)


def _named(aside: Path, path: Path) -> None:
    aside.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """fsync a file that is closed, or a folder (its list of names)."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hash of the file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
