"""A row on its way through a curation: what it says, where it stands, and what was found out about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from potstill.core.example import Example
from potstill.core.lineage import Lineage
from potstill.data.columns import ColumnReader
from potstill.data.quarantine import BadRow, Quarantine
from potstill.data.rows import Row, file_hash
from potstill.data.settings import SourceSettings
from potstill.data.sources import open_source
from potstill.data.tables import parquet_rows

# What `potstill write` says of an answer, kept as it is.
TOLD = (
    *("reasoning", "reference", "prompt_id", "index", "sample", "seed"),
    *("finish_reason", "prompt_tokens", "completion_tokens", "model"),
)
FOUND = ("verdict", "answer", "spans", "language", "perplexity")


@dataclass(frozen=True, slots=True)
class Candidate:
    """source: name of the data set. file, line: where it was read. told: columns of the row that are kept (TOLD, and
    those that `verify` names). found: what stages found out (FOUND)."""

    example: Example
    source: str
    file: str
    line: int
    told: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """What is given: the prompt, or all turns before the last answer; "" for plain text."""
        if self.example.messages:
            return "\n".join(turn.content for turn in self.example.messages[: self._last_answer])
        return self.example.prompt

    @property
    def completion(self) -> str:
        """What is learnt: the completion, the last answer of a conversation, or the plain text."""
        return self.example.messages[self._last_answer].content if self.example.messages else self.example.response

    @property
    def _last_answer(self) -> int:
        return max(at for at, turn in enumerate(self.example.messages) if turn.role == "assistant")

    @property
    def texts(self) -> tuple[str, ...]:
        """All that a row says."""
        return tuple(turn.content for turn in self.example.messages) or (self.prompt, self.completion)

    def part(self, by: str) -> str:
        """The part of a mixture that it belongs to."""
        return self.source if by == "source" else self.example.slices[by]

    def with_found(self, **found: Any) -> Candidate:
        """The same row, and more that is known of it."""
        return replace(self, found={**self.found, **found})


def read_candidates(source: SourceSettings, quarantine: Quarantine, also: tuple[str, ...] = ()) -> Iterator[Candidate]:
    """The rows of a source one after the other, with what they tell of themselves. also: more columns to keep.

    Raises DataError as `read_source` does.
    """
    reader = ColumnReader(source, None)
    rows = taken = 0
    for row in _rows(source, quarantine):
        rows += 1
        try:
            example = reader.example(row).example
        except BadRow as fault:
            quarantine.reject(row.file, row.line, fault, row.values)
            continue
        told = {name: row.values[name] for name in (*TOLD, *also) if row.values.get(name) is not None}
        yield Candidate(example, source.dataset_name, row.file, row.line, told)
        taken += 1
        if taken == source.limit:
            break
    reader.check_columns(source.dataset_name, rows)


def _rows(source: SourceSettings, quarantine: Quarantine) -> Iterator[Row]:
    path = Path(source.dataset_name)
    if path.suffix.lower() != ".parquet":
        return open_source(source, quarantine).rows
    lineage = Lineage(str(path), file_hash(path), source.licence or "unknown")
    return parquet_rows(path, None, source, lineage, quarantine)


def row_of(candidate: Candidate) -> dict[str, Any]:
    """The row as it is published."""
    example = candidate.example
    messages = [asdict(turn) for turn in example.messages] or None
    plain = not example.messages and not example.prompt
    return {
        "prompt": None if plain else candidate.prompt,
        "completion": None if plain else candidate.completion,
        "text": candidate.completion if plain else None,
        "messages": messages,
        **{name: candidate.told.get(name) for name in TOLD},
        **{name: candidate.found.get(name) for name in FOUND},
        "lineage": {name: value for name, value in asdict(example.lineage).items() if name != "parents"},
        **example.slices,
    }


def line_of(candidate: Candidate, **more: Any) -> bytes:
    """The row as one JSON line, and what else is to be said of it."""
    return (json.dumps({**row_of(candidate), **more}, ensure_ascii=False, sort_keys=True) + "\n").encode()
