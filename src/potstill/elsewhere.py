"""A teacher that is served elsewhere, as a run needs it: asked with the run's key, noted in its ledger, asked ahead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import BatchSource, Teacher
from potstill.core.signal import Want
from potstill.students.fingerprint import tokenizer_sha256
from potstill.students.record import ModelRecord
from potstill.teachers.ahead import Ahead, Forewarned
from potstill.teachers.channel import Address
from potstill.teachers.identity import Identity
from potstill.teachers.keys import read_keys
from potstill.teachers.remote import RemoteTeacher, Terms
from potstill.teachers.settings import TeacherSettings


def remote(bench: Bench, settings: TeacherSettings) -> RemoteTeacher:
    """A teacher that is served elsewhere; its origin, as it states it, is noted for the ledger. Before a store, what
    travels is what is kept."""
    key = read_keys(file=settings.key_file, variable=settings.key_env)[0]
    terms = Terms(
        form=settings.store.form if settings.store else settings.form,
        prefetch=settings.prefetch,
        timeout_s=settings.timeout_s,
        refuse_after=settings.refuse_after,
        give_up_after_s=settings.give_up_after_s,
    )
    found = RemoteTeacher(
        [Address(url, key, ca=settings.ca) for url in settings.urls],
        terms,
        task=bench.recipe.task,
        heads=bench.folder.root / "heads",
        weights=settings.url_weights,
        poll=bench.stop.check,
    )
    bench.closing.callback(found.close)
    bench.say(f"the teacher is {found.facts['model']} ({found.voice.teacher}), elsewhere")
    note(bench, settings, found.facts)
    return found


def note(bench: Bench, settings: TeacherSettings, facts: Mapping[str, Any]) -> None:
    """Keep for the ledger what a teacher elsewhere says, or once said, of itself."""
    origin, identity = dict(facts.get("origin") or {}), Identity.from_meta(facts["identity"])
    bench.records[settings.urls[0]] = ModelRecord(
        source=str(origin.get("source", "unknown")),
        display_name=str(facts["model"]),
        revision=str(origin.get("revision", "unknown")),
        licence=str(origin.get("licence", "unknown")),
        folder=None,
        weights_sha256=identity.weights,
        tokenizer_sha256=identity.tokenizer,
        vocabulary_size=identity.vocabulary_size,
        parameters=0,
        architecture="served elsewhere",
    )


def same_tokenizer(bench: Bench, settings: TeacherSettings, tokenizer: PreTrainedTokenizerBase) -> None:
    """A teacher elsewhere reads the student's tokens, so they must be its own. Raises SignalError with both hashes."""
    theirs, ours = bench.records[settings.urls[0]].tokenizer_sha256, tokenizer_sha256(tokenizer)
    if theirs != ours:
        raise SignalError(
            f"the teacher at {settings.urls[0]} has tokenizer {theirs[:16]} and the student has {ours[:16]}: its "
            "answers would be about other tokens; take a student with the teacher's tokenizer, and keep its vocabulary"
        )


def looked_ahead(
    bench: Bench, stage: StageSettings, source: BatchSource, teacher: Teacher | None, want: Want
) -> BatchSource:
    """The source, with a teacher elsewhere asked about its batches before they are learnt from: each rank about its
    own part of them."""
    prefetch = stage.teacher.prefetch if stage.teacher else 0
    if stage.teacher is None or not stage.teacher.urls or not isinstance(teacher, Forewarned) or not prefetch:
        return source

    def expect(number: int, batch: Batch) -> None:
        part = bench.ranks.part(number, batch, stage.train.gradient_accumulation_steps)
        if part is not None:
            teacher.expect(part, want)

    return Ahead(source, prefetch, expect, teacher.forget)
