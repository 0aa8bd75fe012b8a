"""The header of a .gguf file: its values, and the names of its tensors; nothing is read beyond it.

Format: github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3: magic, version, counts, then key, type and value of
each entry, then name, axes, type and offset of each tensor; little endian.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from potstill.core.errors import ModelError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
MOST_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """values: single numbers and strings. lengths: of the arrays. tensors: shape by name, as the file orders axes."""

    values: dict[str, int | float | bool | str]
    lengths: dict[str, int]
    tensors: dict[str, tuple[int, ...]]


def gguf_header(path: Path) -> GgufHeader:
    """Raises ModelError when the file is no GGUF or ends within its header."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _Reader(view).header()
    except (OSError, ValueError, struct.error, KeyError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path}: the header of this .gguf file cannot be read ({error}): download it again"
        ) from error


class _Reader:
    def __init__(self, view: mmap.mmap):
        self._view, self._at = view, 0

    def header(self) -> GgufHeader:
        magic, version, tensors, entries = self._take("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3) or max(tensors, entries) > MOST_ENTRIES:
            raise ValueError(f"it begins with {magic!r}, version {version}, {tensors} tensors and {entries} entries")
        found = GgufHeader({}, {}, {})
        for _ in range(entries):
            key, kind = self._string(), self._take("<I")[0]
            if kind == _ARRAY:
                found.lengths[key] = self._skip_array()
            else:
                found.values[key] = self._string() if kind == _STRING else self._take(f"<{_NUMBERS[kind]}")[0]
        for _ in range(tensors):
            name, axes = self._string(), self._take("<I")[0]
            if axes > 8:
                raise ValueError(f"tensor {name[:40]} has {axes} axes")
            found.tensors[name] = self._take(f"<{axes}Q")
            self._take("<IQ")
        return found

    def _take(self, layout: str) -> tuple:
        values = struct.unpack_from(layout, self._view, self._at)
        self._at += struct.calcsize(layout)
        return values

    def _string(self) -> str:
        return self._raw(self._take("<Q")[0]).decode("utf-8")

    def _raw(self, length: int) -> bytes:
        if self._at + length > len(self._view):
            raise ValueError("it ends within its header")
        self._at += length
        return self._view[self._at - length : self._at]

    def _skip_array(self) -> int:
        kind, count = self._take("<IQ")
        if count > len(self._view):
            raise ValueError("it ends within its header")
        if kind == _STRING:
            for _ in range(count):
                length = self._take("<Q")[0]
                if self._at + length > len(self._view):
                    raise ValueError("it ends within its header")
                self._at += length
        else:
            self._at += count * struct.calcsize(f"<{_NUMBERS[kind]}")
        return count
