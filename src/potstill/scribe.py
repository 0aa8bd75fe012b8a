"""A writing job from its settings to its files: prompts read, the teacher asked, what it wrote published."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.core.errors import FolderError, InputError, RunError
from potstill.core.example import Example
from potstill.data.quarantine import Quarantine
from potstill.data.sources import read_source
from potstill.licensing import clear_job
from potstill.recipe_writing import WritingJob
from potstill.redaction import redact
from potstill.teachers.answers import EndpointAnswers
from potstill.teachers.client import Client
from potstill.teachers.key import read_key
from potstill.teachers.manuscript import Manuscript, record_file, working_folder, write_record
from potstill.teachers.speaker import OneModel, model_to_ask
from potstill.teachers.writer import Writer, WriterLimits, Written
from potstill.train.lock import RunLock
from potstill.train.stop import StopFlag


def write(job: WritingJob, output: str | Path | None = None) -> dict[str, Any]:
    """Do the job, or go on with it, and return its record, which also lies beside the output.

    The same job with the same output asks only for what is not there; a finished one asks for nothing. Raises
    InputError without an output, FolderError when another job's answers lie there, EndpointError when the teacher
    fails, Stopped after a signal, RunError when every answer was rejected. What was kept before stands in each case.
    """
    place = Path(output or job.output or "")
    if not place.name:
        raise InputError("there is no output: set `output` in the file, or name a file with --output")
    for finding in clear_job(job, place):
        if finding.verdict == "warn":
            tell(f"{finding.name}: {finding.evidence['why']}")
    quarantine = Quarantine(job.on_bad_row)
    prompts = prompts_of(job, quarantine)
    identity = identity_of(job, prompts)
    if (finished := _finished(place, identity)) is not None:
        return finished
    key = read_key(job.endpoint)
    with StopFlag() as stop, RunLock(working_folder(place)):
        manuscript = Manuscript(place, identity)
        try:
            client = Client(job.endpoint, key)
            written = asyncio.run(_written(job, prompts, manuscript, client, stop))
            if not manuscript.kept:
                raise RunError(
                    f"all {written.answers:,} answers were rejected ({told(written.rejected)}), so there is nothing to "
                    f"publish; they lie in {manuscript.folder}: look at the prompts and at sampling"
                )
            record = record_of(job, identity, prompts, written, manuscript, client)
            record["prompts_refused"] = dict(quarantine.counts)
            manuscript.publish()
            write_record(place, record)
            if record["complete"]:
                manuscript.discard_journal()
        finally:
            manuscript.close()
    return record


def prompts_of(job: WritingJob, quarantine: Quarantine) -> list[Example]:
    """The prompts in the order of their source. Raises DataError, and InputError when there is none."""
    placed = read_source(job.prompts, task="causal-lm", labels=None, quarantine=quarantine)
    if not placed:
        raise InputError(f"{job.prompts.dataset_name}: no prompt is left ({quarantine.summary()}); check the source")
    return [one.example for one in placed]


def identity_of(job: WritingJob, prompts: Sequence[Example]) -> dict[str, Any]:
    """What the answers depend on. Where the teacher stands, how patiently it is asked and what may be spent are not in
    it: they may change between two sittings of one job."""
    digest = hashlib.sha256("\n".join(prompt.id for prompt in prompts).encode()).hexdigest()
    return {
        "version": job.version,
        "prompts": len(prompts),
        "prompts_sha256": digest,
        "model": job.endpoint.model,
        "licence": job.endpoint.licence,
        "seed": job.seed,
        **{f"sampling.{name}": value for name, value in job.sampling.model_dump(mode="json").items()},
    }


def _finished(place: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a job that is done. Raises FolderError when the output is another job's."""
    record = record_file(place)
    if not place.exists() or working_folder(place).exists() or not record.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        same = found["job"] == identity
    except (ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{record}: not as it was written ({error}); name another output, or remove both") from error
    if not same:
        raise FolderError(f"{place} exists and was written by another job: name another output, or remove it")
    tell(f"{place} is complete: nothing to ask")
    return found


async def _written(
    job: WritingJob, prompts: Sequence[Example], manuscript: Manuscript, client: Client, stop: StopFlag
) -> Written:
    async with client:
        model = await model_to_ask(client)
        limits = WriterLimits(job.endpoint.concurrency, job.budget, job.rejects_in_a_row)
        answers = EndpointAnswers(client, model, job.sampling, OneModel(manuscript.model))
        licence = job.endpoint.licence or "unknown"
        total = len(prompts) * job.sampling.samples
        tell(f"{model} writes {total:,} answers to {len(prompts):,} prompts; {len(manuscript.written):,} are there")
        writer = Writer(
            answers.answer, job.sampling, limits, seed=job.seed, licence=licence, check=stop.check, say=tell
        )
        return await writer.write(prompts, manuscript)


def record_of(
    job: WritingJob,
    identity: Mapping[str, Any],
    prompts: Sequence[Example],
    written: Written,
    manuscript: Manuscript,
    client: Client,
) -> dict[str, Any]:
    """What happened, for the file beside the output and for `--json`."""
    return {
        "output": manuscript.output.name,
        "complete": written.ended == "complete",
        "ended": written.ended,
        "asked": len(prompts) * job.sampling.samples,
        "kept": manuscript.kept,
        "rejected": dict(written.rejected),
        "rejects": manuscript.rejects.name if written.rejected else None,
        "tokens": written.tokens,
        "seconds": round(written.seconds, 3),
        "model": manuscript.model,
        "endpoint": redact(job.endpoint.url),
        "bad_replies": dict(client.refused),
        "job": dict(identity),
    }


def told(counts: Mapping[str, int]) -> str:
    """Reasons with their numbers, in one phrase."""
    return ", ".join(f"{reason}: {number:,}" for reason, number in sorted(counts.items()))


def tell(text: str) -> None:
    """What happens now, for a person."""
    print(text, file=sys.stderr, flush=True)
