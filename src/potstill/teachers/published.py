"""Rows of teacher text as files that `datasets`, pandas and our own sources read: JSON lines, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_AT_ONCE = 1000
Rows = Iterable[Mapping[str, Any]]

# Column, and how Parquet keeps it. `prompt`, `completion` and `messages` are the names by which rows are read again.
COLUMNS: Mapping[str, pa.DataType] = {
    "prompt": pa.string(),
    "completion": pa.string(),
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    "reasoning": pa.string(),
    "reference": pa.string(),
    "prompt_id": pa.string(),
    "index": pa.int64(),
    "sample": pa.int64(),
    "seed": pa.int64(),
    "finish_reason": pa.string(),
    "prompt_tokens": pa.int64(),
    "completion_tokens": pa.int64(),
    "model": pa.string(),
    "lineage": pa.struct(
        [
            ("source", pa.string()),
            ("revision", pa.string()),
            ("licence", pa.string()),
            ("maker", pa.string()),
            ("generation", pa.int64()),
        ]
    ),
}


def write_jsonl(path: Path, rows: Rows, columns: Mapping[str, pa.DataType] = COLUMNS) -> None:
    """One object a line; of rejected rows the reason too."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            reason = row.get("rejected")
            told = {name: row[name] for name in columns} | ({"rejected": reason} if reason else {})
            file.write(json.dumps(told, ensure_ascii=False) + "\n")


def write_parquet(path: Path, rows: Rows, columns: Mapping[str, pa.DataType] = COLUMNS) -> None:
    """Row groups of ROWS_AT_ONCE, each page with a checksum, so that damage is found when it is read."""
    schema = pa.schema(list(columns.items()))
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as file:
        for some in _groups(rows):
            file.write_table(pa.Table.from_pylist([{name: row[name] for name in columns} for row in some], schema))


def _groups(rows: Rows) -> Iterator[list[Mapping[str, Any]]]:
    left = iter(rows)
    while some := list(islice(left, ROWS_AT_ONCE)):
        yield some


PUBLISHERS: Mapping[str, Callable[..., None]] = {".jsonl": write_jsonl, ".parquet": write_parquet}
