"""Does this signal fit this student and this objective? An answer in one sentence, before any arithmetic."""

from __future__ import annotations

from potstill.core.errors import SignalError
from potstill.core.shapes import LogitsBTV
from potstill.core.signal import DenseLogits, Signal, SparseLogprobs
from potstill.objectives.settings import ObjectiveSettings


def check_fit(
    signal: Signal | None, student_BTV: LogitsBTV, settings: ObjectiveSettings
) -> DenseLogits | SparseLogprobs:
    """The teacher's logits, once they are known to fit.

    Raises SignalError, naming both values and the next step: no logits, another vocabulary, other positions, a sparse
    signal at another temperature or with another k.
    """
    if signal is None or signal.logits is None:
        raise SignalError(
            "objective.soft_weight is above 0, but no teacher sent logits: name a teacher, or set it to 0"
        )
    teacher, name = signal.logits, signal.voice.teacher
    entries = student_BTV.shape[-1]
    if signal.voice.vocabulary_size != entries:
        raise SignalError(
            f"teacher {name} speaks of {signal.voice.vocabulary_size} entries and the student of {entries}: "
            "nothing is cut or padded unasked; use models with the same tokenizer and vocabulary size (or the same "
            "classes), or set teacher.vocabulary"
        )
    if isinstance(teacher, SparseLogprobs):
        _check_sparse(teacher, name, settings)
        positions = tuple(teacher.log_tail_BT.shape)
    else:
        _check_dense(teacher, name, entries if signal.entries_K is None else len(signal.entries_K), settings)
        positions = tuple(teacher.logits_BTV.shape[:2])
    if positions != tuple(student_BTV.shape[:2]):
        raise SignalError(
            f"teacher {name} answered for [rows, positions] {list(positions)} and the student for "
            f"{list(student_BTV.shape[:2])}: both must read the same batch"
        )
    return teacher


def _check_dense(teacher: DenseLogits, name: str, entries: int, settings: ObjectiveSettings) -> None:
    if teacher.logits_BTV.shape[-1] != entries:
        raise SignalError(
            f"teacher {name} announced {entries} entries but sent logits over {teacher.logits_BTV.shape[-1]}: "
            "start its service again with the model it announces"
        )
    if settings.top_k is not None and settings.top_k > entries:
        raise SignalError(
            f"objective.top_k is {settings.top_k}, but there are only {entries} entries: lower it, or leave it out"
        )


def _check_sparse(teacher: SparseLogprobs, name: str, settings: ObjectiveSettings) -> None:
    if teacher.temperature != settings.temperature:
        raise SignalError(
            f"teacher {name} sent its top entries at temperature {teacher.temperature}, and the objective needs "
            f"{settings.temperature}: a cut tail cannot be softened again; set objective.temperature to "
            f"{teacher.temperature}, or ask the teacher at {settings.temperature}"
        )
    kept = teacher.logprobs_BTK.shape[-1]
    if settings.top_k is not None and settings.top_k != kept:
        raise SignalError(
            f"teacher {name} sent its {kept} top entries, and objective.top_k is {settings.top_k}: set it to {kept}, "
            f"or ask the teacher for {settings.top_k}"
        )
