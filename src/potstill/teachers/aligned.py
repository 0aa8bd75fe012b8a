"""A teacher with another tokenizer, heard where both have read the same text, over the tokens that both know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, HeadedStates, OutputHead, Signal, Voice, Want
from potstill.teachers.vocabulary import Pieces, Reading, Shared, read_again

# Rows are read again in every pass; so many readings are kept (about 4 kB for a row of 256 tokens).
KEPT = 1 << 16


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows and positions of a batch that mean the same place of a text, for both sides: N of them."""

    row_N: Int[Tensor, " N"]
    student_N: Int[Tensor, " N"]
    teacher_N: Int[Tensor, " N"]


@dataclass(slots=True)
class Aligner:
    """The student's batches as the teacher reads them.

    encode: the teacher's tokens of a plain text, control tokens read as text. limit: the most tokens it reads. filler:
    a token of the teacher for the end of shorter rows, which it does not attend to.
    """

    student: Pieces
    teacher: Pieces
    shared: Shared
    encode: Callable[[str], Sequence[int]]
    limit: int
    filler: int
    _known: dict[bytes, Reading] = field(default_factory=dict)

    def compared(self, batch: Batch) -> Batch:
        """The batch whose "soft" weights are 0 wherever nothing can be compared, so that such positions count in no
        denominator."""
        pairs = self._pairs(batch, self._readings(batch))
        met_BT = torch.zeros_like(batch.weights["soft"])
        met_BT[pairs.row_N, pairs.student_N] = 1.0
        return replace(batch, weights={**batch.weights, "soft": batch.weights["soft"] * met_BT})

    def read(self, batch: Batch) -> tuple[Batch, Pairs]:
        """The teacher's batch, and the positions to compare."""
        readings = self._readings(batch)
        length = max(1, *(len(one.tokens) for one in readings))
        tokens = torch.full((len(readings), length), self.filler, dtype=torch.long)
        attention = torch.zeros(len(readings), length, dtype=torch.bool)
        for row, one in enumerate(readings):
            tokens[row, : len(one.tokens)] = torch.from_numpy(one.tokens)
            attention[row, : max(1, len(one.tokens))] = True
        nothing = torch.zeros(len(readings), length)
        weights = {name: nothing for name in batch.weights}
        theirs = Batch(batch.ids, tokens, attention, torch.zeros_like(tokens), weights, rows=batch.rows)
        return theirs, self._pairs(batch, readings)

    def _readings(self, batch: Batch) -> list[Reading]:
        lengths = batch.attention_BL.sum(1).tolist()
        return [self._reading(row[:length]) for row, length in zip(batch.tokens_BL.cpu(), lengths, strict=True)]

    def _reading(self, tokens_L: Int[Tensor, " L"]) -> Reading:
        key = tokens_L.numpy().tobytes()
        if key not in self._known:
            if len(self._known) >= KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = read_again(tokens_L.tolist(), self.student, self.teacher, self.encode, self.limit)
        return self._known[key]

    def _pairs(self, batch: Batch, readings: Sequence[Reading]) -> Pairs:
        """Only where the student is taught at all."""
        soft_BT = batch.weights["soft"].cpu()
        row_N = torch.cat([torch.full((len(one.student_N),), row) for row, one in enumerate(readings)])
        student_N = torch.cat([torch.from_numpy(one.student_N) for one in readings])
        teacher_N = torch.cat([torch.from_numpy(one.teacher_N) for one in readings])
        taught_N = soft_BT[row_N, student_N] != 0
        return Pairs(row_N[taught_N], student_N[taught_N], teacher_N[taught_N])


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of the training rows the aligned route teaches, counted before the training.

    positions: taught ones; compared: of these, where the decoded prefixes agree. mass: mean probability that the
    teacher gives to the shared tokens at the `sampled` positions; the rest is left out on both sides.
    """

    positions: int
    compared: int
    shared: int
    mass: float
    sampled: int

    @property
    def share(self) -> float:
        """Of the taught positions, those that are compared."""
        return self.compared / self.positions if self.positions else 0.0


class AlignedTeacher:
    """Another Teacher with another tokenizer. Its signal is over the shared tokens (`Signal.entries_K`), renormalised
    on both sides by whoever reads it, and means something at the positions that `Aligner.compared` leaves a weight.

    Position alignment by equal decoded prefixes and restriction to the overlapping vocabulary follow DSKD's exact token
    alignment (Zhang et al. 2025, arXiv:2504.11426); the comparison itself is any divergence of the catalogue.
    """

    def __init__(self, inner: Teacher, aligner: Aligner, *, vocabulary_size: int):
        """vocabulary_size: of the student."""
        self._inner, self.aligner = inner, aligner
        self._entries_K = torch.from_numpy(aligner.shared.student_K)
        self._theirs_K = torch.from_numpy(aligner.shared.teacher_K)
        name = f"{inner.voice.teacher}-aligned-{aligner.student.fingerprint[:16]}"
        self._voice = Voice(teacher=name, vocabulary_size=vocabulary_size)

    @property
    def voice(self) -> Voice:
        """The teacher's fingerprint and that of the tokenizer it is aligned to."""
        return self._voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """Logits over the shared tokens at the compared positions, 0 elsewhere; as states and head where these are
        wanted. Raises SignalError when layers are wanted, or the teacher sends neither states nor dense logits."""
        if want.inside:
            raise SignalError(
                "a teacher with another tokenizer has no states at the student's positions: take an objective on "
                "logits, or a teacher with the student's tokenizer"
            )
        theirs, pairs = self.aligner.read(batch)
        answer = self._inner.signal(theirs, Want(headed=True)).logits
        shape = (*batch.targets_BT.shape, -1)
        if isinstance(answer, HeadedStates):
            head = answer.head.over(self._theirs_K)
            states_ND = answer.states_BTD[pairs.row_N, pairs.teacher_N].float()
            if want.headed:
                logits: DenseLogits | HeadedStates = HeadedStates(_scattered(states_ND, pairs, shape[:2]), head)
            else:
                logits = DenseLogits(_scattered(_over(head, states_ND), pairs, shape[:2]))
        elif isinstance(answer, DenseLogits):
            kept_NK = answer.logits_BTV[pairs.row_N, pairs.teacher_N][:, self._theirs_K].float()
            logits = DenseLogits(_scattered(kept_NK, pairs, shape[:2]))
        else:
            raise SignalError(
                f"teacher {self._inner.voice.teacher} sends {type(answer).__name__}, which cannot be restricted to the "
                "tokens that both vocabularies know: ask it for hidden states or dense logits"
            )
        return Signal(voice=self._voice, logits=logits, entries_K=self._entries_K)

    def coverage(self, batches: Iterable[Batch], *, sample: int = 512) -> Coverage:
        """Count over all of the training rows, and measure the shared tokens' mass at the first `sample` positions."""
        positions = compared = sampled = 0
        mass = 0.0
        for batch in batches:
            positions += int((batch.weights["soft"] != 0).sum())
            compared += int((self.aligner.compared(batch).weights["soft"] != 0).sum())
            if sampled < sample:
                found = self._mass(batch, sample - sampled)
                mass, sampled = mass + float(found.sum()), sampled + len(found)
        return Coverage(positions, compared, len(self._entries_K), mass / sampled if sampled else 0.0, sampled)

    def _mass(self, batch: Batch, most: int) -> Float[Tensor, " N"]:
        theirs, pairs = self.aligner.read(batch)
        answer = self._inner.signal(theirs, Want(headed=True)).logits
        row_N, place_N = pairs.row_N[:most], pairs.teacher_N[:most]
        if isinstance(answer, HeadedStates):
            logits_NV = answer.head.logits(answer.states_BTD[row_N, place_N].float())
        elif isinstance(answer, DenseLogits):
            logits_NV = answer.logits_BTV[row_N, place_N].float()
        else:
            return torch.zeros(0)
        return logits_NV.softmax(-1)[:, self._theirs_K].sum(-1)


def _over(head: OutputHead, states_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
    with torch.no_grad():
        return head.logits(states_ND)


def _scattered(values_NX: Float[Tensor, "N X"], pairs: Pairs, shape: tuple[int, ...]) -> Float[Tensor, "B T X"]:
    whole = values_NX.new_zeros(*shape, values_NX.shape[-1])
    whole[pairs.row_N, pairs.student_N] = values_NX
    return whole
