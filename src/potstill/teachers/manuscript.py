"""What a teacher wrote, on disk: every answer once, whatever stops the writing.

While it is written, answers lie in a journal beside the output, one JSON line each, flushed to the disk before the next
question is asked in their place. A line that a crash cut off is removed when the journal is opened again, and whatever
has no line was never written: so after `kill -9` no answer stands twice and none that was kept is lost. `publish`
makes the output of the journal, in the order of the prompts, written aside and renamed. The cost: until then the
answers lie in the journal only, and publishing reads it once more.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.core.errors import DataError, FolderError
from potstill.durable import replace_file, settle, writing
from potstill.teachers.published import PUBLISHERS

JOURNAL, JOB = "journal.jsonl", "job.json"
Place = tuple[int, int]


class Manuscript:
    """The answers of one job, by prompt and sample.

    output: a file that ends in one of PUBLISHERS. job: what the answers depend on; a journal of another job is refused.
    written: place of every answer and rejection -> where its line begins. prompt_tokens, completion_tokens: spent on
    them. model: the id that the answers report, "" before the first.
    rejected: how many were rejected, by reason.
    """

    def __init__(self, output: Path, job: Mapping[str, Any]):
        """Open or go on. Raises FolderError: another job's journal or output, a folder that cannot be written;
        DataError: an unknown kind of output, a damaged journal."""
        if output.suffix not in PUBLISHERS:
            raise DataError(f"{output}: the output ends in {' or '.join(PUBLISHERS)}; name another file")
        self.output = output
        self.folder = working_folder(output)
        self.job = json.loads(json.dumps(job))
        self.written: dict[Place, int] = {}
        self.rejected: dict[str, int] = {}
        self.prompt_tokens, self.completion_tokens, self.model = 0, 0, ""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_job()
            self._journal = os.open(self.folder / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = self._read_back()

    def _check_job(self) -> None:
        place = self.folder / JOB
        if not place.exists():
            if self.output.exists():
                raise FolderError(f"{self.output} exists: name another file, or remove it")
            replace_file(place, (json.dumps(self.job, indent=1, ensure_ascii=False) + "\n").encode())
        before = json.loads(place.read_text(encoding="utf-8"))
        if before != self.job:
            changed = sorted(name for name in {*before, *self.job} if before.get(name) != self.job.get(name))
            raise FolderError(
                f"{self.folder} holds answers of another job; these differ: {', '.join(changed)}: name another output, "
                "or remove that folder"
            )

    def _read_back(self) -> int:
        """Note what is there, cut off what a crash left half-written, and return where the next line begins."""
        at = 0
        with (self.folder / JOURNAL).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    self._note(json.loads(line), at)
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{file.name}:{number}: not as it was written ({error}); remove this line to ask again"
                    ) from error
                at += len(line)
        with writing(self.folder):
            os.ftruncate(self._journal, at)
        return at

    def _note(self, row: Mapping[str, Any], at: int) -> None:
        place = (int(row["index"]), int(row["sample"]))
        if place in self.written:
            raise ValueError(f"prompt {place[0]}, sample {place[1]} stands there twice")
        self.written[place] = at
        self.prompt_tokens += int(row["prompt_tokens"] or 0)
        self.completion_tokens += int(row["completion_tokens"] or 0)
        self.model = self.model or row["model"]
        if row["rejected"]:
            self.rejected[row["rejected"]] = self.rejected.get(row["rejected"], 0) + 1

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep these rows for good. Raises DiskError when the disk is full; what was kept before stands."""
        lines = [(json.dumps(row, ensure_ascii=False) + "\n").encode() for row in rows]
        at = self._end
        with writing(self.folder):
            view = memoryview(b"".join(lines))
            while view:
                done = os.pwrite(self._journal, view, at)
                at, view = at + done, view[done:]
            os.fsync(self._journal)
        for row, line in zip(rows, lines, strict=True):
            self._note(row, self._end)
            self._end += len(line)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row in the order of prompts and samples."""
        with (self.folder / JOURNAL).open("rb") as file:
            for place in sorted(self.written):
                file.seek(self.written[place])
                yield json.loads(file.readline())

    @property
    def tokens(self) -> int:
        """Spent on all answers, prompts included."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def kept(self) -> int:
        """Answers that were not rejected."""
        return len(self.written) - sum(self.rejected.values())

    @property
    def rejects(self) -> Path:
        """Where rejected answers are told, if there are any."""
        return self.output.with_name(f"{self.output.stem}.rejects.jsonl")

    def publish(self) -> None:
        """Write the output, and the rejected answers beside it; either is whole or as it was before."""
        with writing(self.output.parent):
            self.output.parent.mkdir(parents=True, exist_ok=True)
            aside = self.folder / f"published{self.output.suffix}"
            PUBLISHERS[self.output.suffix](aside, (row for row in self.rows() if not row["rejected"]))
            settle(aside, self.output)
            if self.rejected:
                aside = self.folder / "rejects.jsonl"
                PUBLISHERS[".jsonl"](aside, (row for row in self.rows() if row["rejected"]))
                settle(aside, self.rejects)

    def discard_journal(self) -> None:
        """After the last publishing: the output holds all of it."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let go of the journal."""
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def working_folder(output: Path) -> Path:
    """Where an output is prepared, beside it."""
    return output.with_name(f"{output.name}.writing")


def record_file(output: Path) -> Path:
    """Where the record of how an output was made is kept, beside it."""
    return output.with_name(f"{output.name}.json")


def write_record(output: Path, record: Mapping[str, Any]) -> None:
    """Write the record of an output, whole or not at all."""
    with writing(output.parent):
        replace_file(record_file(output), (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
