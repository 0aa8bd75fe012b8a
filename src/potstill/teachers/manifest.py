"""What a store says of itself: the terms that all its rows share, and the hashes of every shard that is finished."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from potstill.core.errors import SignalError
from potstill.durable import replace_file

MANIFEST, VERSION = "store.json", 1
SHARD_NAME = re.compile(r"shard-\d{6}\.rows")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A line of the manifest. bytes: of the shard, index_sha256: of its index."""

    name: str
    rows: int
    bytes: int
    sha256: str
    index_sha256: str


def read_manifest(folder: Path, expected: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[Sealed]]:
    """Terms and finished shards. expected: the terms a caller comes with, who may also begin a store.

    Raises SignalError when there is none, when it cannot be read, and when its terms are others.
    """
    path = folder / MANIFEST
    if not path.exists():
        if expected is None:
            raise SignalError(f"{folder} holds no stored signals: name the folder of a store")
        return dict(expected), []
    again = f"move {folder} away, and the teacher will be asked again"
    try:
        values = json.loads(path.read_bytes())
        version, terms, lines = values["version"], values["terms"], values["shards"]
        seals = [Sealed(**line) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SignalError(f"{path} cannot be read ({str(error)[:80]}): {again}") from error
    if version != VERSION or not isinstance(terms, dict) or not all(map(_sound, seals)):
        raise SignalError(f"{path} is not the manifest of a store of version {VERSION}: {again}")
    if expected is not None and terms != expected:
        differing = sorted(key for key in terms.keys() | expected.keys() if terms.get(key) != expected.get(key))
        raise SignalError(
            f"{folder} holds signals on other terms; these differ: {', '.join(differing)}. Name another folder, or the "
            "teacher and form that it was made with"
        )
    return terms, seals


def write_manifest(folder: Path, terms: Mapping[str, Any], seals: Sequence[Sealed]) -> None:
    """The whole new manifest or the whole old one."""
    values = {"version": VERSION, "terms": terms, "shards": [asdict(seal) for seal in seals]}
    replace_file(folder / MANIFEST, json.dumps(values, indent=1).encode())


def _sound(seal: Sealed) -> bool:
    """Of the right types, and naming nothing but a file of the store."""
    kinds = {"str": str, "int": int}
    typed = all(type(getattr(seal, one.name)) is kinds[str(one.type)] for one in fields(seal))
    return typed and bool(SHARD_NAME.fullmatch(seal.name)) and min(seal.rows, seal.bytes) >= 0
