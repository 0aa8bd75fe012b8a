"""Our own reading of line files, because the readers of the libraries lose the file name, the line or the row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill.core.errors import DataError
from potstill.core.lineage import Lineage
from potstill.data.quarantine import BadRow

MAX_LINE = 16 * 2**20
BOM = b"\xef\xbb\xbf"
WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Row:
    """One row before its columns are understood.

    line: 1-based line, or row number in a table. typed: False where every value is text (CSV). slices: groups that the
    source itself knows.
    """

    file: str
    line: int
    values: Mapping[str, Any]
    lineage: Lineage
    typed: bool = True
    slices: Mapping[str, str] = field(default_factory=dict)


LINEAGE = {"source": str, "revision": str, "licence": str, "maker": str, "generation": int}


def stated_lineage(values: Mapping[str, Any]) -> Lineage | None:
    """The origin that a row states of itself in a column `lineage` (as `potstill write` does), which is nearer than
    that of the file it stands in. Anything else of that name is a column like others."""
    stated = values.get("lineage")
    if not isinstance(stated, dict) or stated.keys() != LINEAGE.keys():
        return None
    if any(type(stated[name]) is not kind for name, kind in LINEAGE.items()):
        return None
    return Lineage(**stated)


@dataclass(frozen=True, slots=True)
class Line:
    """Bytes of one line without its end. ended: the line end was there. whole: it was shorter than MAX_LINE."""

    number: int
    raw: bytes
    ended: bool
    whole: bool = True


def file_hash(path: Path) -> str:
    """SHA-256 of the content: the revision of a local file.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """The one sentence for a file that the system does not give."""
    cause = error.strerror or str(error)
    return DataError(f"{path}: {cause}; check dataset_name (a relative path starts at the working directory)")


def numbered_lines(path: Path) -> Iterator[Line]:
    """Lines of a file that end in LF or CRLF, with a leading byte-order mark removed.

    Raises:
        DataError: the file cannot be read, or is UTF-16.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE):
                number += 1
                if number == 1 and raw.startswith(WIDE_BOMS):
                    raise DataError(f"{path}:1: the file is UTF-16; save it as UTF-8")
                if number == 1:
                    raw = raw.removeprefix(BOM)
                ended = raw.endswith(b"\n")
                whole = ended or len(raw) < MAX_LINE - len(BOM)
                while not whole and (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield Line(number, raw.removesuffix(b"\n").removesuffix(b"\r"), ended, whole)
    except OSError as error:
        raise unreadable(path, error) from error


def checked_text(line: Line) -> str:
    """The line as text.

    Raises:
        BadRow: too long, a NUL byte, or bytes that are not UTF-8.
    """
    if not line.whole:
        raise BadRow("line too long", f"more than {MAX_LINE} bytes")
    if (at := line.raw.find(b"\0")) >= 0:
        raise BadRow("NUL byte", f"at byte {at + 1}")
    try:
        return line.raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", f"byte 0x{line.raw[error.start]:02x} at byte {error.start + 1}") from error
