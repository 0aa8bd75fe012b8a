"""A curation from its settings to its files: rows read, sieved, balanced, mixed, published, and all of it counted."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from potstill.core.errors import FolderError, InputError, RunError
from potstill.data.curate.balance import least_alike, likeliest
from potstill.data.curate.candidate import Candidate, line_of, read_candidates
from potstill.data.curate.card import card
from potstill.data.curate.mixture import counts_of, drawing
from potstill.data.curate.settings import BalanceSettings, MixtureSettings
from potstill.data.curate.sieve import Stage, StageCount, conserved, sieved
from potstill.data.curate.stages import (
    decontaminate_stage,
    duplicates_stage,
    examination_of,
    language_stage,
    prompt_key,
    rates,
    rules_stage,
    untrusted_stage,
    verify_stage,
)
from potstill.data.quarantine import Quarantine
from potstill.data.rows import file_hash
from potstill.data.verify.judge import judging
from potstill.data.verify.passk import pass_at_k
from potstill.durable import replace_file, settle, sha256, writing
from potstill.perplexity import quality_stage
from potstill.recipe_curating import Curation
from potstill.teachers.manuscript import record_file, working_folder, write_record
from potstill.teachers.published import COLUMNS, PUBLISHERS
from potstill.train.lock import RunLock
from potstill.train.stop import StopFlag

ROWS_BETWEEN_WORDS = 5000
SPAN = pa.list_(pa.int64())
FOUND_COLUMNS: Mapping[str, pa.DataType] = {
    "text": pa.string(),
    "verdict": pa.string(),
    "answer": pa.string(),
    "spans": pa.struct([("rationale", SPAN), ("answer", SPAN)]),
    "language": pa.string(),
    "perplexity": pa.float64(),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that passed the sieve, by what the choices after it need. at, size: its line in the spool. group: its
    prompt. name: what its turn in a mixture is drawn by."""

    at: int
    size: int
    group: tuple[str, str | int]
    part: str
    name: str
    perplexity: float


class Curating:
    """One curation at work. folder: where the rows that passed and those that did not are kept until it is done."""

    def __init__(self, job: Curation, folder: Path, check: Callable[[], None]):
        self.job, self._check = job, check
        self.quarantine = Quarantine(job.on_bad_row)
        self.counts: dict[str, StageCount] = {}
        self.verdicts: dict[str, Counter[str]] = {}
        self.lineages: Counter[str] = Counter()
        self.mixture: dict[str, tuple[int, int]] = {}
        self.examined: dict[str, int] | None = None
        self._spool: BinaryIO = (folder / "spool.jsonl").open("w+b")
        self._dropped: BinaryIO = (folder / "dropped.jsonl").open("wb")

    def run(self, *, allow_unisolated_code: bool) -> list[Entry]:
        """The rows that stay, in the order they were read."""
        job = self.job
        with ExitStack() as stack:
            stages = self._stages(stack, allow_unisolated_code)
            read = StageCount("read")
            names = [*stages, *(name for name in ("balance", "mixture") if getattr(job, name) is not None)]
            self.counts = {"read": read} | {name: StageCount(name) for name in names}
            passed = sieved(self._read(read), stages, self.counts, self._drop, self._check)
            entries = [self._spooled(candidate) for candidate in passed]
        for reason, number in self.quarantine.counts.items():
            for _ in range(number):
                read.drop(reason)
        if job.balance is not None:
            entries = self._chosen("balance", entries, self._balanced(entries, job.balance), "more than per_prompt")
        if job.mixture is not None and entries:
            entries = self._chosen("mixture", entries, self._mixed(entries, job.mixture), "beyond its share")
        if not conserved(list(self.counts.values())):
            raise RunError(f"rows went missing: {[dict(one.told()) for one in self.counts.values()]}; report this")
        return entries

    def _stages(self, stack: ExitStack, allow_unisolated_code: bool) -> dict[str, Stage]:
        job = self.job
        stages: dict[str, Stage] = {"untrusted": untrusted_stage()}
        if job.rules is not None:
            stages["rules"] = rules_stage(job.rules)
        if job.language is not None:
            stages["language"] = language_stage(job.language)
        if job.verify is not None:
            judge = stack.enter_context(judging(job.verify, allow_unisolated_code=allow_unisolated_code))
            stages["verify"] = verify_stage(job.verify, judge, self.verdicts)
        if job.duplicates is not None:
            stages["duplicates"] = duplicates_stage(job.duplicates)
        if job.decontaminate is not None:
            examination = examination_of(job.decontaminate, Quarantine("quarantine"))
            self.examined = {"texts": examination.texts, "too_short": examination.too_short}
            stages["decontaminate"] = decontaminate_stage(examination)
        if job.quality is not None:
            stages["quality"] = quality_stage(job.quality, job.sources)
        return stages

    def _read(self, count: StageCount) -> Iterator[Candidate]:
        also = () if self.job.verify is None else (self.job.verify.reference, self.job.verify.tests)
        for source in self.job.sources:
            for candidate in read_candidates(source, self.quarantine, also):
                count.keep()
                if count.left % ROWS_BETWEEN_WORDS == 0:
                    tell(f"  {count.left:,} rows read")
                yield candidate

    def _spooled(self, candidate: Candidate) -> Entry:
        line, at = line_of(candidate), self._spool.tell()
        self._spool.write(line)
        by = "source" if self.job.mixture is None else self.job.mixture.by
        name = f"{candidate.example.id}|{candidate.told.get('sample', '')}|{candidate.file}|{candidate.line}"
        perplexity = float(candidate.found.get("perplexity", 0.0))
        return Entry(at, len(line), prompt_key(candidate), candidate.part(by), name, perplexity)

    def _drop(self, candidate: Candidate, stage: str, reason: str) -> None:
        self._dropped.write(line_of(candidate, stage=stage, reason=reason))

    def row(self, entry: Entry) -> dict[str, Any]:
        """A row of the spool."""
        self._spool.seek(entry.at)
        row: dict[str, Any] = json.loads(self._spool.read(entry.size))
        return row

    def _balanced(self, entries: Sequence[Entry], settings: BalanceSettings) -> set[int]:
        groups: dict[tuple[str, str | int], list[int]] = {}
        for number, entry in enumerate(entries):
            groups.setdefault(entry.group, []).append(number)
        kept: set[int] = set()
        for numbers in groups.values():
            if len(numbers) <= settings.per_prompt or settings.by == "first":
                places = list(range(min(len(numbers), settings.per_prompt)))
            elif settings.by == "likelihood":
                places = likeliest([entries[number].perplexity for number in numbers], settings.per_prompt)
            else:
                texts = [str(self.row(entries[number])["completion"]) for number in numbers]
                places = least_alike(texts, settings.per_prompt)
            kept.update(numbers[place] for place in places)
        return kept

    def _mixed(self, entries: Sequence[Entry], settings: MixtureSettings) -> set[int]:
        parts: dict[str, list[int]] = {}
        for number, entry in enumerate(entries):
            parts.setdefault(entry.part, []).append(number)
        sizes = {name: len(numbers) for name, numbers in parts.items()}
        wanted = counts_of(sizes, settings)
        self.mixture = {name: (sizes[name], wanted[name]) for name in sorted(sizes)}
        kept: set[int] = set()
        for name, numbers in parts.items():
            drawn = sorted(numbers, key=lambda number: drawing(self.job.seed, entries[number].name))
            kept.update(drawn[: wanted[name]])
        return kept

    def _chosen(self, stage: str, entries: Sequence[Entry], kept: set[int], reason: str) -> list[Entry]:
        for number, entry in enumerate(entries):
            if number in kept:
                self.counts[stage].keep()
            else:
                self.counts[stage].drop(reason)
                row = {**self.row(entry), "stage": stage, "reason": reason}
                self._dropped.write((json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n").encode())
        return [entries[number] for number in sorted(kept)]

    def rows(self, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
        """The rows that stay, as they are published."""
        for entry in entries:
            row = self.row(entry)
            self.lineages[json.dumps(row["lineage"], sort_keys=True)] += 1
            yield row

    def flush(self) -> None:
        """Hand all dropped rows to the system."""
        self._dropped.flush()

    def close(self) -> None:
        """Let go of the files."""
        self._spool.close()
        self._dropped.close()


def curate(job: Curation, output: str | Path | None = None, *, allow_unisolated_code: bool = False) -> dict[str, Any]:
    """Do the curation and return its record, which also lies beside the output, with a data card and dropped rows.

    The same curation of the same files gives the same bytes; where its output lies already, nothing is done. Raises
    InputError without an output or without what a stage needs, FolderError when another curation's output lies there,
    RunError when no row is left (the dropped ones are then told with their reasons all the same).
    """
    place = Path(output or job.output or "")
    if place.suffix not in PUBLISHERS:
        raise InputError(f"the output ends in {' or '.join(PUBLISHERS)}: set `output` in the file, or give --output")
    identity = identity_of(job)
    if (finished := _finished(place, identity)) is not None:
        return finished
    folder = working_folder(place)
    with StopFlag() as stop, RunLock(folder), writing(folder):
        rows = folder / "rows"
        shutil.rmtree(rows, ignore_errors=True)
        rows.mkdir(parents=True)
        work = Curating(job, rows, stop.check)
        try:
            entries = work.run(allow_unisolated_code=allow_unisolated_code)
            record = _published(work, entries, place, identity)
        finally:
            work.close()
            # A curation begins anew each time, so nothing in it is worth keeping.
            shutil.rmtree(folder, ignore_errors=True)
    return record


def _published(work: Curating, entries: Sequence[Entry], place: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """All files, the record last: an output without one is not finished."""
    folder = working_folder(place) / "rows"
    dropped = place.with_name(f"{place.stem}.dropped.jsonl")
    place.parent.mkdir(parents=True, exist_ok=True)
    work.flush()
    if os.path.getsize(folder / "dropped.jsonl"):
        settle(folder / "dropped.jsonl", dropped)
    counts = [dict(one.told()) for one in work.counts.values()]
    if not entries:
        reasons = Counter[str]()
        for one in work.counts.values():
            reasons += one.dropped
        told = ", ".join(f"{reason}: {number:,}" for reason, number in reasons.most_common()) or "the sources are empty"
        raise RunError(
            f"no row is left ({told}), so nothing is published; each is in {dropped} with its stage: look at some, "
            "then at the stage that took the most"
        )
    slices = {name: pa.string() for source in work.job.sources for name in source.columns.slices}
    aside = folder / f"published{place.suffix}"
    PUBLISHERS[place.suffix](aside, work.rows(entries), {**COLUMNS, **FOUND_COLUMNS, **slices})
    record = {
        "output": place.name,
        "sha256": sha256(aside),
        "read": counts[0]["in"],
        "kept": len(entries),
        "stages": counts,
        "dropped": dropped.name if counts[0]["in"] > len(entries) else None,
        "lineage": [{**json.loads(lineage), "rows": rows} for lineage, rows in sorted(work.lineages.items())],
        "verify": _verified(work.verdicts) if work.job.verify is not None else None,
        "examined": work.examined,
        "mixture": {name: list(two) for name, two in work.mixture.items()} or None,
        "job": dict(identity),
    }
    settle(aside, place)
    replace_file(place.with_name(f"{place.name}.md"), card(record).encode())
    write_record(place, record)
    return record


def _verified(verdicts: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """Outcomes of all answers that were verified, and pass@k over prompts for 1 and for as many as every prompt has."""
    outcomes = Counter[str]()
    for one in verdicts.values():
        outcomes += one
    asked, solved = rates(verdicts)
    fewest = min((one.total() for one in verdicts.values()), default=0)
    pass_at = {
        str(k): sum(pass_at_k(one.total(), one["right"], k) for one in verdicts.values()) / asked
        for k in sorted({1, fewest})
        if asked
    }
    return {"outcomes": dict(sorted(outcomes.items())), "prompts": asked, "prompts_solved": solved, "pass_at": pass_at}


def identity_of(job: Curation) -> dict[str, Any]:
    """What the outcome depends on: the settings, and the content of the files they name."""
    settings = job.model_dump(mode="json", exclude={"output"})
    sources = [*job.sources, *(() if job.decontaminate is None else job.decontaminate.against)]
    files = {one.dataset_name: file_hash(Path(one.dataset_name)) for one in sources if Path(one.dataset_name).is_file()}
    return {**settings, "files": files}


def _finished(place: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a curation that is done. Raises FolderError when the output is another one's."""
    if not place.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(record_file(place).read_text(encoding="utf-8"))
        same = found["job"] == identity and found["sha256"] == sha256(place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{place} exists, and no record says how it was made: name another output") from error
    if not same:
        raise FolderError(
            f"{place} exists and is another curation's, or was changed: name another output, or remove it"
        )
    tell(f"{place} is complete: nothing to do")
    return found


def tell(text: str) -> None:
    """What happens now, for a person."""
    print(text, file=sys.stderr, flush=True)
