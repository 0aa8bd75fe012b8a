"""Batches of the rows that are worth their price now: a BatchSource whose passes get shorter and harder."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from potstill.core.batch import Batch
from potstill.core.errors import DataError
from potstill.data.collate import Collate
from potstill.data.difficulty.schedule import rows_kept, share
from potstill.data.difficulty.score import difficulty
from potstill.data.difficulty.strata import drawn
from potstill.data.encoded import Encoded
from potstill.data.order import epoch_order, fingerprint
from potstill.data.order_settings import DifficultySettings

Losses = Float[np.ndarray, " N"]


class DifficultBatches:
    """The first pass has every row. Before each later one the student, as it is by then, is asked for its loss on every
    row, the teacher once for all, and the pass has the rows that `drawn` chooses by their difficulty.

    student, teacher: mean loss on the truth of each row, in the order of `encoded`. The chosen rows are a part of the
    state, one bit a row: weights move on, so they cannot be chosen again.

    Raises:
        DataError: there are no rows.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        collate: Collate,
        batch_size: int,
        seed: int,
        *,
        settings: DifficultySettings,
        student: Callable[[], Losses],
        teacher: Callable[[], Losses],
        group_by_length: bool = True,
    ):
        if not encoded:
            raise DataError("there are no rows to make batches of; check the sources of data.train")
        self._encoded, self._collate, self._size = encoded, collate, batch_size
        self._settings, self._seed, self._group = settings, seed, group_by_length
        self._student, self._teacher = student, teacher
        self._taught: Losses | None = None
        self._lengths = np.array([one.length for one in encoded])
        grouping = "length" if group_by_length else "plain"
        self._fingerprint = f"{fingerprint(encoded)}-{batch_size}-{grouping}-{settings.model_dump_json()}"
        self._epoch, self._position, self._seconds = 0, 0, 0.0
        self._begin(np.ones(len(encoded), dtype=bool))

    def next(self) -> Batch:
        """The next batch. Between two passes the scores are taken; what fails there leaves the place as it was.

        Raises:
            DataError: the schedule is at its end.
        """
        if self._position == len(self._order):
            started, epoch = time.perf_counter(), self._epoch + 1
            chosen = self._chosen_for(epoch)
            self._epoch, self._position = epoch, 0
            self._begin(chosen)
            self._seconds += time.perf_counter() - started
        rows = self._order[self._position]
        self._position += 1
        return self._collate([self._encoded[row] for row in rows], self._epoch)

    def _chosen_for(self, epoch: int) -> Bool[np.ndarray, " N"]:
        settings, number = self._settings, len(self._encoded)
        if epoch >= settings.passes:
            raise DataError(
                f"the {settings.passes} passes of order.difficulty are over; lower train.max_steps, or raise "
                f"order.difficulty.passes"
            )
        if self._taught is None:
            self._taught = self._teacher()
        kept = rows_kept(settings.schedule, epoch, settings.passes, number)
        chosen = np.zeros(number, dtype=bool)
        chosen[drawn(difficulty(self._student(), self._taught), kept, settings.tau, (self._seed, epoch))] = True
        return chosen

    def _begin(self, chosen: Bool[np.ndarray, " N"]) -> None:
        """Lay out a pass over the chosen rows."""
        self._chosen = base64.b64encode(np.packbits(chosen).tobytes()).decode()
        rows: Int[np.ndarray, " kept"] = np.flatnonzero(chosen)
        order = epoch_order(self._lengths[rows], self._size, (self._seed, self._epoch), self._group)
        self._order = [rows[batch].tolist() for batch in order]

    def account(self) -> dict[str, Any]:
        """What was read so far to choose rows, in rows and tokens read forwards, and how long that took; and the share
        of the rows in each pass."""
        settings, number = self._settings, len(self._encoded)
        tokens, begun = int(self._lengths.sum()), self._epoch
        return {
            "passes": begun + 1,
            "shares": [share(settings.schedule, epoch, settings.passes) for epoch in range(begun + 1)],
            "student_rows": begun * number,
            "student_tokens": begun * tokens,
            "teacher_rows": number if begun else 0,
            "teacher_tokens": tokens if begun else 0,
            "seconds": self._seconds,
        }

    def state(self) -> dict[str, Any]:
        """Where the next batch comes from, and out of which rows."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "seed": self._seed,
            "chosen": self._chosen,
            "seconds": self._seconds,
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            DataError: the state is of other rows or settings, or is not a state.
        """
        if state.get("fingerprint") != self._fingerprint:
            raise DataError(
                f"the saved position belongs to other data or another order.difficulty (fingerprint "
                f"{state.get('fingerprint')}, now {self._fingerprint}); resume with the same, or start a new run"
            )
        number = len(self._encoded)
        try:
            epoch, position, seed = (int(state[name]) for name in ("epoch", "position", "seed"))
            bits = np.frombuffer(base64.b64decode(state["chosen"], validate=True), dtype=np.uint8)
            seconds = float(state["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the saved position cannot be read ({error!r}); use an earlier checkpoint") from error
        chosen = np.unpackbits(bits)[:number].astype(bool)
        kept = rows_kept(self._settings.schedule, epoch, self._settings.passes, number) if self._is_pass(epoch) else -1
        if len(bits) != -(-number // 8) or int(chosen.sum()) != kept or position < 0 or seed < 0:
            raise DataError("the saved position is not one of this data; use an earlier checkpoint")
        self._epoch, self._position, self._seed, self._seconds = epoch, position, seed, seconds
        self._begin(chosen)
        if position > len(self._order):
            raise DataError("the saved position is not one of this data; use an earlier checkpoint")

    def _is_pass(self, epoch: int) -> bool:
        return 0 <= epoch < self._settings.passes
