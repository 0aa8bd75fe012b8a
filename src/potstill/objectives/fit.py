"""Does this signal fit this student and this objective? An answer in one sentence, before any arithmetic."""

from __future__ import annotations

from potstill.core.errors import SignalError
from potstill.core.shapes import LogitsBTV
from potstill.core.signal import DenseLogits, HeadedStates, Outputs, Signal, SparseLogprobs
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
    if isinstance(teacher, HeadedStates):
        raise SignalError(f"teacher {name} sent its last states where logits were asked for: set objective.fused: true")
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


def check_states(signal: Signal | None, outputs: Outputs, setting: str) -> tuple[Signal, HeadedStates, HeadedStates]:
    """Signal, teacher's states and student's, for an objective on last states that `setting` chose.

    Raises SignalError, naming the setting and the next step: no teacher, no states, other entries, other positions.
    """
    if signal is None:
        raise SignalError(f"{setting} has no teacher to learn from: name one, or remove it")
    teacher, student, name = signal.logits, outputs.headed, signal.voice.teacher
    if not isinstance(teacher, HeadedStates) or student is None:
        raise SignalError(
            f"{setting} compares last states, and teacher {name} sent {type(teacher).__name__}: take one teacher that "
            f"sends its hidden states, or remove {setting}"
        )
    ours = len(student.head.weight_VD) if signal.entries_K is None else len(signal.entries_K)
    if signal.voice.vocabulary_size != len(student.head.weight_VD) or len(teacher.head.weight_VD) != ours:
        raise SignalError(
            f"teacher {name} speaks of {signal.voice.vocabulary_size} entries with a head of "
            f"{len(teacher.head.weight_VD)} rows, and the student's has {len(student.head.weight_VD)}: use models with "
            "one tokenizer and vocabulary size, or set teacher.vocabulary"
        )
    if student.states_BTD.shape[:2] != teacher.states_BTD.shape[:2]:
        raise SignalError(
            f"teacher {name} answered for [rows, positions] {list(teacher.states_BTD.shape[:2])} and the student for "
            f"{list(student.states_BTD.shape[:2])}: both must read the same batch"
        )
    return signal, teacher, student


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
