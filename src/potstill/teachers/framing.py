"""The layout of a frame, apart from its tensors: how long everything is, before anything is there. No torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

MAGIC, VERSION = b"PSTL", 1
PREFIX = struct.Struct("<4sHHIQ")
ALIGNMENT = 64
# Bytes of one number, by the names of safetensors.
WIDTHS: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip

# Name, dtype and shape of each tensor, in their order.
Listed = Sequence[tuple[str, str, Sequence[int]]]


def header_of(kind: str, meta: Mapping[str, Any], listed: Listed) -> bytes:
    """The JSON of a frame, filled with spaces up to where the first tensor begins. Raises ValueError, TypeError for
    values that are not JSON."""
    values = {"kind": kind, "meta": meta, "tensors": [[name, dtype, list(shape)] for name, dtype, shape in listed]}
    text = json.dumps(values, allow_nan=False, separators=(",", ":")).encode()
    return text + b" " * (-(PREFIX.size + len(text)) % ALIGNMENT)


def body_bytes(listed: Listed) -> int:
    """Bytes of the tensors, each filled up to the alignment."""
    return sum(aligned(math.prod(shape) * WIDTHS[dtype]) for _, dtype, shape in listed)


def whole_bytes(kind: str, meta: Mapping[str, Any], listed: Listed) -> int:
    """Bytes of the whole frame."""
    return PREFIX.size + len(header_of(kind, meta, listed)) + body_bytes(listed)


def aligned(size: int) -> int:
    """The next multiple of the alignment."""
    return size + -size % ALIGNMENT
