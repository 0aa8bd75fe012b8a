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
from potstill.licensing import clear_job, writer_of
from potstill.recipe_writing import WritingJob
from potstill.redaction import redact
from potstill.teachers.answers import EndpointAnswers
from potstill.teachers.client import Client
from potstill.teachers.key import read_key
from potstill.teachers.manuscript import Manuscript, record_file, working_folder, write_record
from potstill.teachers.speaker import OneModel, model_to_ask
from potstill.teachers.writer import Ask, Writer, WriterLimits, Written, cost, turns_of
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
    key = None if job.endpoint is None else read_key(job.endpoint)
    with StopFlag() as stop, RunLock(working_folder(place)):
        manuscript = Manuscript(place, identity)
        try:
            if job.endpoint is not None:
                by = _by_endpoint(job, Client(job.endpoint, key), prompts, manuscript, stop)
            else:
                by = _by_model(job, prompts, manuscript, stop)
            written, bad_replies = asyncio.run(by)
            if not manuscript.kept:
                raise RunError(
                    f"all {written.answers:,} answers were rejected ({told(written.rejected)}), so there is nothing to "
                    f"publish; they lie in {manuscript.folder}: look at the prompts and at sampling"
                )
            record = record_of(job, identity, prompts, written, manuscript)
            record["bad_replies"] = bad_replies
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
    shown = {shot.prompt.strip() for shot in job.sampling.shots}
    for one in placed:
        if (asked := turns_of(one.example)[-1].content.strip()) in shown:
            raise InputError(
                f"{one.file}:{one.line}: the prompt {asked[:60]!r} is one of sampling.shots, so the teacher would be "
                "shown its answer: remove one of the two"
            )
    return [one.example for one in placed]


def identity_of(job: WritingJob, prompts: Sequence[Example]) -> dict[str, Any]:
    """What the answers depend on. Where the teacher stands, how patiently it is asked and what may be spent are not in
    it: they may change between two sittings of one job."""
    digest = hashlib.sha256("\n".join(prompt.id for prompt in prompts).encode()).hexdigest()
    sampling = job.sampling.model_dump(mode="json")
    if not job.sampling.shots:
        del sampling["shots"]
    if job.endpoint is not None:
        who = {"model": job.endpoint.model, "licence": job.endpoint.licence}
    else:
        assert job.model is not None, "a job has an endpoint or a model"
        who = {"model": job.model.model_name_or_path, "revision": job.model.revision, "batch": job.batch}
    return {
        "version": job.version,
        "prompts": len(prompts),
        "prompts_sha256": digest,
        **who,
        "seed": job.seed,
        **{f"sampling.{name}": value for name, value in sampling.items()},
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


async def _by_endpoint(
    job: WritingJob, client: Client, prompts: Sequence[Example], manuscript: Manuscript, stop: StopFlag
) -> tuple[Written, dict[str, int]]:
    """How it ended, and replies that were refused, by reason."""
    async with client:
        model = await model_to_ask(client)
        answers = EndpointAnswers(client, model, job.sampling, OneModel(manuscript.model))
        licence = client.settings.licence or "unknown"
        written = await _writer(job, answers.answer, client.settings.concurrency, licence, stop).write(
            prompts, announced(job, model, prompts, manuscript)
        )
    return written, dict(client.refused)


async def _by_model(
    job: WritingJob, prompts: Sequence[Example], manuscript: Manuscript, stop: StopFlag
) -> tuple[Written, dict[str, int]]:
    """As `_by_endpoint`; a model in this process gives no replies to refuse."""
    # Imported where they are used: a job with an endpoint begins seconds earlier without transformers.
    from potstill.students.load import load_model
    from potstill.teachers.own_answers import OwnAnswers

    assert job.model is not None, "a job has an endpoint or a model"
    made = load_model(job.model, task="causal-lm", labels=None)
    name = f"{made.record.display_name} {made.record.fingerprint}"
    if manuscript.model not in ("", name):
        raise FolderError(
            f"{manuscript.folder} holds answers of {manuscript.model}, and {job.model.model_name_or_path} is now "
            f"{name}: name another output"
        )
    context = int(made.module.config.get_text_config().max_position_embeddings)
    answers = OwnAnswers(made, name, job.sampling, context, job.batch, stop.check)
    writer = _writer(job, answers.answer, job.batch, made.record.licence, stop)
    return await writer.write(prompts, announced(job, name, prompts, manuscript)), {}


def _writer(job: WritingJob, ask: Ask, concurrency: int, licence: str, stop: StopFlag) -> Writer:
    limits = WriterLimits(concurrency, job.budget, job.rejects_in_a_row, job.price)
    return Writer(ask, job.sampling, limits, seed=job.seed, licence=licence, check=stop.check, say=tell)


def announced(job: WritingJob, model: str, prompts: Sequence[Example], manuscript: Manuscript) -> Manuscript:
    """The manuscript, once a person has been told who writes how much into it."""
    total = len(prompts) * job.sampling.samples
    tell(f"{model} writes {total:,} answers to {len(prompts):,} prompts; {len(manuscript.written):,} are there")
    return manuscript


def record_of(
    job: WritingJob,
    identity: Mapping[str, Any],
    prompts: Sequence[Example],
    written: Written,
    manuscript: Manuscript,
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
        "cost": None if job.price is None else cost(manuscript, job.price),
        "seconds": round(written.seconds, 3),
        "model": manuscript.model,
        "endpoint": "" if job.endpoint is None else redact(job.endpoint.url),
        "licence": writer_of(job).licence,
        "job": dict(identity),
    }


def told(counts: Mapping[str, int]) -> str:
    """Reasons with their numbers, in one phrase."""
    return ", ".join(f"{reason}: {number:,}" for reason, number in sorted(counts.items()))


def tell(text: str) -> None:
    """What happens now, for a person."""
    print(text, file=sys.stderr, flush=True)
