"""A teacher of the same family whose table has spare rows: 152,064 where the student has 151,936, say.

A model is often given more rows than its tokenizer has tokens, so that the table divides well. No text leads to such a
row, yet the softmax gives it some probability. The rule: rows that only one of the two has, and that no token uses, are
removed from both sides' logits before the softmax. It holds only where the tokenizers are equal; what is removed is
measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, HeadedStates, Signal, SparseLogprobs, Voice, Want
from potstill.teachers.ahead import forewarn, release


@dataclass(frozen=True, slots=True)
class PaddingMass:
    """What the teacher gives to the rows that are removed: mean and largest probability at `positions` positions."""

    mean: float
    largest: float
    positions: int


class PaddedTeacher:
    """Another Teacher, its logits cut to the rows that both vocabularies have."""

    def __init__(self, inner: Teacher, *, vocabulary_size: int, tokens: int):
        """vocabulary_size: rows of the student. tokens: of the tokenizer that both have.

        Raises SignalError when a token lies beyond the rows that both have.
        """
        theirs = inner.voice.vocabulary_size
        self._shared = min(theirs, vocabulary_size)
        if tokens > self._shared:
            raise SignalError(
                f"the teacher has {theirs} rows and the student {vocabulary_size}, but the tokenizer has {tokens} "
                f"tokens, so rows from {self._shared} on are no padding: use models whose tables hold every token"
            )
        self._inner = inner
        self._entries_K = torch.arange(self._shared) if self._shared < vocabulary_size else None
        self._voice = Voice(f"{inner.voice.teacher}-rows-{self._shared}", vocabulary_size)

    @property
    def voice(self) -> Voice:
        """The teacher's fingerprint and how many rows are heard of it."""
        return self._voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """The teacher's signal over the shared rows. Raises SignalError when one of its top entries is a padding row: a
        cut tail cannot be shared out again."""
        found = self._inner.signal(batch, want)
        return Signal(self._voice, self._cut(found.logits), found.hidden, found.attentions, self._entries_K)

    def expect(self, batch: Batch, want: Want) -> None:
        """See `Forewarned`."""
        forewarn(self._inner, batch, want)

    def forget(self, batch: Batch | None = None) -> None:
        """See `Forewarned`."""
        release(self._inner, batch)

    def _cut(
        self, logits: DenseLogits | SparseLogprobs | HeadedStates | None
    ) -> DenseLogits | SparseLogprobs | HeadedStates | None:
        if isinstance(logits, DenseLogits):
            return DenseLogits(logits.logits_BTV[..., : self._shared])
        if isinstance(logits, HeadedStates):
            return HeadedStates(logits.states_BTD, logits.head.over(torch.arange(self._shared)))
        if isinstance(logits, SparseLogprobs) and bool((logits.indices_BTK >= self._shared).any()):
            raise SignalError(
                f"teacher {self._inner.voice.teacher} names entry {int(logits.indices_BTK.max())} among its most "
                f"likely, and rows from {self._shared} on are padding: ask it for dense logits or hidden states"
            )
        return logits

    def mass(self, batches: Iterable[Batch], *, sample: int = 512) -> PaddingMass:
        """Measured on the first `sample` taught positions; 0 where the teacher has no rows that the student lacks."""
        found: list[torch.Tensor] = []
        left = sample if self._inner.voice.vocabulary_size > self._shared else 0
        for batch in batches:
            if left <= 0:
                break
            taught_BT = batch.weights["soft"] != 0
            logits = self._inner.signal(batch, Want()).logits
            if isinstance(logits, HeadedStates):
                logits_NV = logits.head.logits(logits.states_BTD[taught_BT][:left].float())
            elif isinstance(logits, DenseLogits):
                logits_NV = logits.logits_BTV[taught_BT][:left].float()
            else:
                break
            found.append(logits_NV.softmax(-1)[:, self._shared :].sum(-1))
            left -= len(logits_NV)
        mass_N = torch.cat(found) if found else torch.zeros(0)
        if not len(mass_N):
            return PaddingMass(0.0, 0.0, 0)
        return PaddingMass(float(mass_N.mean()), float(mass_N.max()), len(mass_N))
