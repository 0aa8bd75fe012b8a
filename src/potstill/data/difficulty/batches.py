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
from potstill.data.difficulty.schedule import readings, rows_kept, share
from potstill.data.difficulty.score import difficulty
from potstill.data.difficulty.strata import drawn
from potstill.data.encoded import Encoded
from potstill.data.order import epoch_order, fingerprint
from potstill.data.order_settings import DifficultySettings

Losses = Float[np.ndarray, " N"]
Chosen = Bool[np.ndarray, " N"]


class DifficultBatches:
    """The first pass has every row. Before the second, and then before each `score_every`-th one, the student as it is
    by then is asked for its loss on every row, the teacher once for all, and the passes up to the next scoring have
    the rows that `drawn` chooses by their difficulty.

    student, teacher: mean loss on the truth of each row, in the order of `encoded`. The chosen rows are a part of the
    state, one bit a row and pass: weights move on, so they cannot be chosen again.

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
        self._ahead: list[Chosen] = []
        self._begin(np.ones(len(encoded), dtype=bool))

    def next(self) -> Batch:
        """The next batch. Between two passes the scores are taken; what fails there leaves the place as it was.

        Raises:
            DataError: the schedule is at its end.
        """
        if self._position == len(self._order):
            started, epoch = time.perf_counter(), self._epoch + 1
            chosen, *ahead = self._ahead or self._chosen_from(epoch)
            self._epoch, self._position, self._ahead = epoch, 0, ahead
            self._begin(chosen)
            self._seconds += time.perf_counter() - started
        rows = self._order[self._position]
        self._position += 1
        return self._collate([self._encoded[row] for row in rows], self._epoch)

    def _chosen_from(self, epoch: int) -> list[Chosen]:
        """The rows of this pass, and of those that go by the same scores."""
        settings, number = self._settings, len(self._encoded)
        if epoch >= settings.passes:
            raise DataError(
                f"the {settings.passes} passes of order.difficulty are over; lower train.max_steps, or raise "
                f"order.difficulty.passes"
            )
        if self._taught is None:
            self._taught = self._teacher()
        scores, found = difficulty(self._student(), self._taught), list[Chosen]()
        for each in range(epoch, min(epoch + settings.score_every, settings.passes)):
            kept = rows_kept(settings.schedule, each, settings.passes, number)
            chosen = np.zeros(number, dtype=bool)
            chosen[drawn(scores, kept, settings.tau, (self._seed, each))] = True
            found.append(chosen)
        return found

    def _begin(self, chosen: Chosen) -> None:
        """Lay out a pass over the chosen rows."""
        self._chosen = chosen
        rows: Int[np.ndarray, " kept"] = np.flatnonzero(chosen)
        order = epoch_order(self._lengths[rows], self._size, (self._seed, self._epoch), self._group)
        self._order = [rows[batch].tolist() for batch in order]

    def account(self) -> dict[str, Any]:
        """What was read so far to choose rows, in rows and tokens read forwards, and how long that took; and the share
        of the rows in each pass."""
        settings, number = self._settings, len(self._encoded)
        tokens, begun = int(self._lengths.sum()), self._epoch
        read = readings(begun + 1, settings.score_every)
        return {
            "passes": begun + 1,
            "shares": [share(settings.schedule, epoch, settings.passes) for epoch in range(begun + 1)],
            "student_rows": read * number,
            "student_tokens": read * tokens,
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
            "chosen": [_packed(one) for one in (self._chosen, *self._ahead)],
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
        try:
            epoch, position, seed = (int(state[name]) for name in ("epoch", "position", "seed"))
            chosen, *ahead = (self._unpacked(one, epoch + place) for place, one in enumerate(state["chosen"]))
            seconds = float(state["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the saved position cannot be read ({error!r}); use an earlier checkpoint") from error
        if position < 0 or seed < 0 or len(ahead) != self._passes_ahead(epoch):
            raise DataError("the saved position is not one of this data; use an earlier checkpoint")
        self._epoch, self._position, self._seed, self._seconds = epoch, position, seed, seconds
        self._ahead = ahead
        self._begin(chosen)
        if position > len(self._order):
            raise DataError("the saved position is not one of this data; use an earlier checkpoint")

    def _unpacked(self, packed: str, epoch: int) -> Chosen:
        """Raises ValueError where these are not as many rows as the pass has."""
        settings, number = self._settings, len(self._encoded)
        bits = np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8)
        chosen = np.unpackbits(bits)[:number].astype(bool)
        known = 0 <= epoch < settings.passes and len(bits) == -(-number // 8)
        if not known or int(chosen.sum()) != rows_kept(settings.schedule, epoch, settings.passes, number):
            raise ValueError(f"pass {epoch} has other rows")
        return chosen

    def _passes_ahead(self, epoch: int) -> int:
        """Later passes that go by the same scores as this one."""
        settings = self._settings
        if epoch == 0:
            return 0
        return min(settings.score_every - 1 - (epoch - 1) % settings.score_every, settings.passes - 1 - epoch)


def _packed(chosen: Chosen) -> str:
    return base64.b64encode(np.packbits(chosen).tobytes()).decode()
