"""Teachers that speak through the codec: alone, or out of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, HeadedStates, Signal, Voice, Want
from potstill.teachers.ahead import forewarn, release
from potstill.teachers.codec import pack, rows_of, unpack, unsound
from potstill.teachers.packing import Packing, row_keys
from potstill.teachers.spoken import spread
from potstill.teachers.store import SignalStore
from potstill.teachers.wire import Frame


@dataclass(frozen=True, slots=True)
class CodedTeacher:
    """A teacher in this process whose signal is rounded exactly as a wire or a store would round it."""

    live: Teacher
    packing: Packing

    @property
    def voice(self) -> Voice:
        """The live teacher's."""
        return self.live.voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """Packed and unpacked."""
        refuse_other(want, self.packing)
        signal = self.live.signal(batch, self.packing.want)
        if unsound(signal, batch):
            return signal
        return as_wanted(unpack(pack(signal, batch, self.packing), batch, self.packing), batch, want)


@dataclass(frozen=True, slots=True)
class StoredTeacher:
    """Answers from a store, and asks the live teacher for what is not in it.

    A batch of which any row is missing is asked about as a whole, so that a run that was killed and goes on asks
    exactly what it would have asked; of the answer only the missing rows are stored. live: None where the store is
    known to hold every row.
    """

    store: SignalStore
    packing: Packing
    live: Teacher | None = None

    @property
    def voice(self) -> Voice:
        """Of whoever said what is stored."""
        return self.packing.identity.voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """The signal, always as it lies in the store.

        An answer that is not finite is handed on as it is and not stored: the training skips it, and asks again in the
        next pass. Raises SignalError for rows that nobody can answer and for a damaged shard.
        """
        refuse_other(want, self.packing)
        keys = row_keys(batch)
        rows = self.store.find(keys)
        if missing := [key for key, row in zip(keys, rows, strict=True) if row is None]:
            if self.live is None:
                raise SignalError(
                    f"{self.store.folder} has no signal for {len(missing)} rows of the batch, the first of them "
                    f"{batch.ids[keys.index(missing[0])]}: name the teacher it was made with, and it will be asked"
                )
            signal = self.live.signal(batch, self.packing.want)
            if unsound(signal, batch):
                return signal
            rows = self._kept(rows, rows_of(pack(signal, batch, self.packing)))
        else:
            release(self.live, batch)  # its rows came with another batch since it was told of
        return as_wanted(unpack([row for row in rows if row is not None], batch, self.packing), batch, want)

    def expect(self, batch: Batch, want: Want) -> None:
        """The live teacher is told of a batch that it will be asked about."""
        if any(key not in self.store for key in row_keys(batch)):
            forewarn(self.live, batch, self.packing.want)

    def forget(self, batch: Batch | None = None) -> None:
        """See `Forewarned`."""
        release(self.live, batch)

    def close(self) -> None:
        """Seal what was recorded."""
        self.store.close()

    def _kept(self, stored: Sequence[Frame | None], fresh: Sequence[Frame]) -> list[Frame | None]:
        new = [row for old, row in zip(stored, fresh, strict=True) if old is None]
        self.store.append(new)
        return [row if old is None else old for old, row in zip(stored, fresh, strict=True)]


def refuse_other(want: Want, packing: Packing) -> None:
    """Raises SignalError when an objective wants what the packing does not carry."""
    lacking = [f"hidden layer {layer}" for layer in want.hidden_layers if layer not in packing.hidden_layers]
    lacking += [
        f"attentions of block {block}" for block in want.attention_layers if block not in packing.attention_layers
    ]
    lacking += [f"attention scores of block {block}" for block in want.score_layers]
    if lacking:
        raise SignalError(
            f"the objective wants {', '.join(lacking)}, which the stored signals lack: record them with those layers"
        )
    if packing.top_k and want.top_k != packing.top_k:
        raise SignalError(
            f"the objective wants {want.top_k or 'all'} entries and the stored signals hold {packing.top_k}: set "
            "objective.top_k to that, or record again"
        )


def as_wanted(signal: Signal, batch: Batch, want: Want) -> Signal:
    """Whole logits where the objective wants those and last states came; only asked positions are computed."""
    said = signal.logits
    if want.headed or not isinstance(said, HeadedStates):
        return signal
    asked_BT = batch.weights["soft"] != 0
    logits = DenseLogits(spread(said.head.logits(said.states_BTD[asked_BT]), asked_BT)) if want.logits else None
    return Signal(voice=signal.voice, logits=logits, hidden=signal.hidden, attentions=signal.attentions)
