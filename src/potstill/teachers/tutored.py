"""A teacher and its tutor, asked about the same rows: who is learnt from, the objective chooses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, Signal, Voice, Want


class TutoredTeacher:
    """The teacher's signal with the tutor's logits beside it. Neither carries a gradient."""

    def __init__(self, teacher: Teacher, tutor: Teacher):
        """Raises SignalError when the two speak of vocabularies of different sizes."""
        ours, theirs = teacher.voice, tutor.voice
        if ours.vocabulary_size != theirs.vocabulary_size:
            raise SignalError(
                f"teacher {ours.teacher} has {ours.vocabulary_size} entries and its tutor {theirs.teacher} has "
                f"{theirs.vocabulary_size}: a row can be taught by either only where both speak of the same ones"
            )
        self._teacher, self._tutor = teacher, tutor
        fingerprint = hashlib.sha256(json.dumps([ours.teacher, theirs.teacher]).encode()).hexdigest()
        self._voice = Voice(f"tutored-{fingerprint[:32]}", ours.vocabulary_size)

    @property
    def voice(self) -> Voice:
        """A fingerprint of both."""
        return self._voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """Both answers. Raises SignalError when one of them is not dense logits over the whole vocabulary."""
        said, beside = self._teacher.signal(batch, want), self._tutor.signal(batch, want)
        for name, one in (("the teacher", said), ("the tutor", beside)):
            if not isinstance(one.logits, DenseLogits) or one.entries_K is not None:
                raise SignalError(
                    f"teacher.choose compares whole logits, and {name} ({one.voice.teacher}) sends something else: "
                    "take models of this process with the student's vocabulary"
                )
        assert isinstance(beside.logits, DenseLogits), "it was looked at"
        return replace(said, voice=self._voice, tutor=beside.logits)
