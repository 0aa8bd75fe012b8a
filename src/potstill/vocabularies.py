"""Do a teacher and its student speak of the same tokens? An answer before any weight is read, and the way it is bridged
when the recipe asks for one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.data.collate import Collate
from potstill.data.encoded import Encoded
from potstill.students.fingerprint import tokenizer_sha256
from potstill.students.load import LoadedModel, load_tokenizer, vocabulary_rows
from potstill.students.pooled import config_of, positions_of
from potstill.students.settings import ModelSettings
from potstill.teachers.aligned import AlignedTeacher, Aligner
from potstill.teachers.padding import PaddedTeacher
from potstill.teachers.settings import TeacherSettings
from potstill.teachers.vocabulary import pieces_of, shared_tokens

Route = Literal["equal", "padded", "aligned"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A model's tokenizer, the rows of its table, and the name the recipe has for it. longest: tokens it can read."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    rows: int
    longest: int = sys.maxsize

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides token ids."""
        return tokenizer_sha256(self.tokenizer)

    @property
    def tokens(self) -> int:
        """One more than the largest id."""
        return int(max(self.tokenizer.get_vocab().values())) + 1


def vocabulary_of(bench: Bench, settings: ModelSettings) -> Vocabulary:
    """Read from tokenizer and config alone."""
    folders, trusted = bench.products, bench.trust_remote_code
    return Vocabulary(
        settings.model_name_or_path,
        load_tokenizer(settings, folder_of=folders, trust_remote_code=trusted),
        vocabulary_rows(settings, folder_of=folders, trust_remote_code=trusted),
    )


def spoken_by(settings: ModelSettings, loaded: LoadedModel) -> Vocabulary:
    """That of a loaded model."""
    longest = positions_of(config_of(loaded.module)) or sys.maxsize
    return Vocabulary(settings.model_name_or_path, loaded.tokenizer, loaded.record.vocabulary_size, longest)


def refuse_other_vocabularies(bench: Bench, stage: StageSettings) -> None:
    """Before any weight is read: a teacher that this student could not hear. A student whose vocabulary is trimmed has
    none before its model is read, and is looked at then."""
    if stage.teacher is not None and stage.student.vocabulary_size is None:
        routes(bench, stage.teacher, vocabulary_of(bench, stage.student))


def routes(bench: Bench, settings: TeacherSettings, student: Vocabulary) -> tuple[Route, ...]:
    """How each model of the teacher is heard. Raises SignalError for a difference that the recipe does not allow for,
    and for an allowance that nothing needs.

    Recorded answers of classifiers are read with the teacher's own tokenizer; a classifier's entries are its classes.
    """
    if settings.cache:
        return ("equal",) * len(settings.models)
    teachers = [vocabulary_of(bench, named) for named in settings.models]
    if bench.recipe.task == "classify":
        teachers = [replace(one, rows=student.rows) for one in teachers]
    found = tuple(route(settings.vocabulary, student, teacher) for teacher in teachers)
    if not settings.urls:
        _refuse_idle(settings, student, found)
    return found


def route_elsewhere(bench: Bench, settings: TeacherSettings, student: Vocabulary, others: Sequence[Route]) -> Route:
    """How a teacher elsewhere is heard, whose tokenizer is known to be the student's. others: how the models are.
    Raises SignalError as `routes` does."""
    if settings.cache or bench.recipe.task == "classify":
        return "equal"
    rows = bench.records[settings.urls[0]].vocabulary_size
    found = route(settings.vocabulary, student, replace(student, name=settings.urls[0], rows=rows))
    _refuse_idle(settings, student, (*others, found))
    return found


def _refuse_idle(settings: TeacherSettings, student: Vocabulary, found: Sequence[Route]) -> None:
    if settings.vocabulary != "equal" and settings.vocabulary not in found:
        raise SignalError(
            f"teacher.vocabulary is {settings.vocabulary}, but student and teacher have one tokenizer "
            f"({student.fingerprint[:16]}) and {student.rows} rows each: set it to equal"
        )


def route(allowed: Route, student: Vocabulary, teacher: Vocabulary) -> Route:
    """How one teacher is heard. Raises SignalError, with both values, where that is not allowed."""
    if student.fingerprint != teacher.fingerprint:
        if allowed == "aligned":
            return "aligned"
        raise SignalError(
            f"the student {student.name} and the teacher {teacher.name} have different tokenizers, "
            f"{student.fingerprint[:16]} with {student.tokens} tokens and {teacher.fingerprint[:16]} with "
            f"{teacher.tokens}, so they cannot read one batch: use models with one tokenizer, or set "
            "teacher.vocabulary: aligned (causal-lm) or teacher.cache: true (classifiers)"
        )
    if student.rows == teacher.rows:
        return "equal"
    shared = min(student.rows, teacher.rows)
    spare = student.tokens <= shared
    if spare and allowed == "padded":
        return "padded"
    step = (
        f"its {student.tokens} tokens all lie below {shared}, so the rest is padding: set teacher.vocabulary: padded "
        "to leave those rows out"
        if spare
        else f"its {student.tokens} tokens reach beyond {shared}: use models whose tables hold every token"
    )
    raise SignalError(
        f"the student {student.name} has {student.rows} vocabulary rows and the teacher {teacher.name} has "
        f"{teacher.rows}, with one tokenizer ({student.fingerprint[:16]}); {step}"
    )


def bridged(way: Route, one: Teacher, teacher: Vocabulary, student: Vocabulary) -> Teacher:
    """The teacher as the student can hear it."""
    if way == "padded":
        return PaddedTeacher(one, vocabulary_size=student.rows, tokens=student.tokens)
    if way == "aligned":
        return AlignedTeacher(one, aligner(student, teacher), vocabulary_size=student.rows)
    return one


def aligner(student: Vocabulary, teacher: Vocabulary) -> Aligner:
    """Raises SignalError for tokenizers that cannot be aligned."""
    ours = pieces_of(student.tokenizer, student.fingerprint)
    theirs = pieces_of(teacher.tokenizer, teacher.fingerprint)
    return Aligner(
        student=ours,
        teacher=theirs,
        shared=shared_tokens(ours, theirs),
        encode=partial(_plain, teacher.tokenizer),
        limit=teacher.longest,
        filler=int(teacher.tokenizer.pad_token_id or theirs.end or 0),
    )


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def compared(collate: Collate, speakers: Sequence[Teacher]) -> Collate:
    """The stage's batches, with a soft weight only where an aligned teacher can be compared."""
    aligners = [one.aligner for one in speakers if isinstance(one, AlignedTeacher)]

    def bound(encoded: Sequence[Encoded], epoch: int) -> Batch:
        batch = collate(encoded, epoch)
        for one in aligners:
            batch = one.compared(batch)
        return batch

    return bound if aligners else collate


def measured(
    say: Callable[[str], None], speakers: Sequence[Teacher], batches: Callable[[], Iterable[Batch]]
) -> list[dict[str, Any]]:
    """What each bridge leaves out, counted on the training rows before the training, said and returned.

    Raises SignalError where nothing at all can be compared.
    """
    found: list[dict[str, Any]] = []
    for one in speakers:
        if isinstance(one, PaddedTeacher):
            mass = one.mass(batches())
            say(
                f"teacher {one.voice.teacher}: the rows that are left out had {mass.mean:.2e} of its probability "
                f"(largest {mass.largest:.2e}) at {mass.positions} positions"
            )
            found.append({"teacher": one.voice.teacher, "vocabulary": "padded", **asdict(mass)})
        elif isinstance(one, AlignedTeacher):
            seen = one.coverage(batches())
            if not seen.compared:
                raise SignalError(
                    f"teacher {one.voice.teacher}: at none of {seen.positions} positions do both tokenizers agree on "
                    "the text before it, so nothing can be learnt: use a teacher with the student's tokenizer"
                )
            say(
                f"teacher {one.voice.teacher}: compared at {seen.compared:,} of {seen.positions:,} positions "
                f"({seen.share:.1%}), over {seen.shared:,} shared tokens with {seen.mass:.1%} of its probability"
            )
            found.append({"teacher": one.voice.teacher, "vocabulary": "aligned", "share": seen.share, **asdict(seen)})
    return found
