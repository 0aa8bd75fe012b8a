"""A teacher's answers, read once and given again in every pass.

Worth it where the teacher sees the same rows in the same form each time, and an answer is small: classifiers, whose
rows have one position. The cost is that the answers belong to exactly these rows; both are checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, Signal, Voice, Want
from potstill.durable import replace_file, writing

ANSWERS, MANIFEST = "answers.safetensors", "answers.json"


@dataclass(frozen=True, slots=True)
class AnswerCache:
    """A Teacher that answers from memory, bit for bit what was recorded.

    logits_RV: one answer per row of the data set, at the row's position. ids: the example id of each row, "" where
    nothing was recorded; an answer is only given for the example it was recorded for.
    """

    voice: Voice
    logits_RV: Float[Tensor, "R V"]
    ids: tuple[str, ...]

    @classmethod
    def record(cls, teacher: Teacher, batches: Iterable[Batch], rows_total: int) -> AnswerCache:
        """Ask the teacher once for every row of `batches`. rows_total: the number of rows in the data set.

        Raises SignalError for rows with more than one position, and for signals that are not dense logits.
        """
        ids = [""] * rows_total
        logits_RV: Tensor | None = None
        for batch in batches:
            assert len(batch.rows) == len(batch.ids), "a batch to record says which rows it holds"
            answers = _one_position(teacher.signal(batch, Want()), teacher.voice).cpu()
            if logits_RV is None:
                logits_RV = torch.zeros(rows_total, answers.shape[-1], dtype=answers.dtype)
            logits_RV[list(batch.rows)] = answers
            for row, identity in zip(batch.rows, batch.ids, strict=True):
                ids[row] = identity
        if logits_RV is None:
            raise SignalError("there is nothing to record: the data set has no rows; check data.train")
        return cls(voice=teacher.voice, logits_RV=logits_RV, ids=tuple(ids))

    def signal(self, batch: Batch, want: Want) -> Signal:
        """The recorded logits of the batch's rows. Raises SignalError for a row that was not recorded, and when states
        or attentions are wanted."""
        if want.inside:
            raise SignalError("only logits are recorded: set teacher.cache to false for an objective on layers")
        for row, identity in zip(batch.rows, batch.ids, strict=True):
            known = self.ids[row] if 0 <= row < len(self.ids) else ""
            if known != identity:
                raise SignalError(
                    f"row {row} is example {identity}, but the recorded answer there is for {known or 'nobody'}: the "
                    "data changed since the answers were recorded; delete the recorded answers, or undo the change"
                )
        logits = self.logits_RV[list(batch.rows)].unsqueeze(1).to(batch.tokens_BL.device)
        return Signal(voice=self.voice, logits=DenseLogits(logits))

    def save(self, folder: Path) -> None:
        """Write the answers, then the manifest that vouches for them: a save cut off between the two is noticed by
        `load`. Raises DiskError or FolderError when they cannot be written."""
        payload = save({"logits_RV": self.logits_RV.contiguous()})
        manifest = {
            "teacher": self.voice.teacher,
            "vocabulary_size": self.voice.vocabulary_size,
            "sha256": hashlib.sha256(payload).hexdigest(),
            "ids": self.ids,
        }
        with writing(folder, needed=len(payload)):
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / ANSWERS, payload)
            replace_file(folder / MANIFEST, json.dumps(manifest).encode())

    @classmethod
    def load(cls, folder: Path, voice: Voice) -> AnswerCache:
        """The answers saved in `folder`, if `voice` gave them.

        Raises SignalError when they are absent, damaged, or another teacher's.
        """
        next_step = f"delete {folder} and the teacher will be asked again"
        try:
            manifest = json.loads((folder / MANIFEST).read_bytes())
            payload = (folder / ANSWERS).read_bytes()
            speaker = Voice(teacher=manifest["teacher"], vocabulary_size=manifest["vocabulary_size"])
            ids, digest = tuple(manifest["ids"]), manifest["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SignalError(f"the recorded answers in {folder} cannot be read ({error}): {next_step}") from error
        if hashlib.sha256(payload).hexdigest() != digest:
            raise SignalError(
                f"the recorded answers in {folder} are damaged: their SHA-256 is not {digest}: {next_step}"
            )
        if speaker != voice:
            raise SignalError(
                f"the recorded answers in {folder} are by {speaker.teacher} ({speaker.vocabulary_size} entries), and "
                f"the teacher is {voice.teacher} ({voice.vocabulary_size} entries): {next_step}"
            )
        return cls(voice=voice, logits_RV=load(payload)["logits_RV"], ids=ids)


def _one_position(signal: Signal, voice: Voice) -> Float[Tensor, "B V"]:
    if not isinstance(signal.logits, DenseLogits):
        raise SignalError(f"teacher {voice.teacher} sends no dense logits to record: set teacher.cache to false")
    positions = signal.logits.logits_BTV.shape[1]
    if positions != 1:
        raise SignalError(
            f"teacher {voice.teacher} answers for {positions} positions a row, and answers are recorded for 1 "
            "(classifiers): set teacher.cache to false"
        )
    return signal.logits.logits_BTV.squeeze(1)
