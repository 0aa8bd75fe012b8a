"""Batches of the skills that are practised now: a BatchSource that is handed what was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from potstill.core.batch import Batch
from potstill.core.errors import DataError
from potstill.core.progress import Progress
from potstill.data.collate import Collate
from potstill.data.curriculum.gates import Gate, Practice
from potstill.data.encoded import Encoded
from potstill.data.order import epoch_order, fingerprint

METRIC = "skill."
# Marks the draw of repeated rows among those of a seed and a round.
DRAW = 2


class SkillBatches:
    """Rounds over the rows of the skills that the gate names: each fresh skill's rows once, and of the mastered ones so
    many, drawn at random, that they are `review` of the round. Where nothing is fresh a round is every mastered row.

    A round that is over is followed by the next; a measurement that changes what is practised ends it at once.
    teacher: its score by skill, of which the student's is a share. skills: of each row, in the order of `encoded`.

    Raises:
        DataError: there are no rows, or the teacher has no score above 0 on a skill.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        collate: Collate,
        batch_size: int,
        seed: int,
        *,
        gate: Gate,
        skills: Sequence[str],
        teacher: Mapping[str, float],
        review: float,
        group_by_length: bool = True,
    ):
        if not encoded:
            raise DataError("there are no rows to make batches of; check the sources of data.train")
        for skill in sorted(set(skills)):
            if not teacher.get(skill, 0.0) > 0:
                raise DataError(
                    f"the teacher is right on none of the validation rows of skill `{skill}`, so no student can be "
                    f"held against it there; leave these rows out, or take another teacher"
                )
        self._encoded, self._collate, self._size, self._seed = encoded, collate, batch_size, seed
        self._gate, self._teacher, self._review, self._group = gate, dict(teacher), review, group_by_length
        self._lengths = np.array([one.length for one in encoded])
        self._rows = {skill: np.flatnonzero(np.array([one == skill for one in skills])) for skill in set(skills)}
        named = hashlib.sha256(json.dumps([list(skills), review, group_by_length]).encode()).hexdigest()[:16]
        self._fingerprint = f"{fingerprint(encoded)}-{batch_size}-{named}"
        self._round, self._position, self._history = 0, 0, list[dict[str, Any]]()
        self._begin()

    def heed(self, progress: Progress) -> None:
        """What was measured: `skill.NAME` among the metrics, the student's score on each skill."""
        known = progress.metrics
        if not all(f"{METRIC}{skill}" in known for skill in self._rows):
            return
        before = self._gate.practice()
        self._gate = self._gate.measured({one: known[f"{METRIC}{one}"] / self._teacher[one] for one in self._rows})
        now = self._gate.practice()
        if now != before or not self._history:
            self._history.append({"step": progress.step, "fresh": list(now.fresh), "review": list(now.review)})
        if now != before:
            if self._position:  # a round nobody has read from yet is replaced, not followed
                self._round += 1
            self._position = 0
            self._begin()

    def next(self) -> Batch:
        """The next batch; after the last one of a round comes the first of the next."""
        if self._position == len(self._order):
            self._round, self._position = self._round + 1, 0
            self._begin()
        rows = self._order[self._position]
        self._position += 1
        return self._collate([self._encoded[row] for row in rows], self._round)

    def _begin(self) -> None:
        rows = self._rows_of(self._gate.practice())
        order = epoch_order(self._lengths[rows], self._size, (self._seed, self._round), self._group)
        self._order = [rows[batch].tolist() for batch in order]

    def _rows_of(self, practice: Practice) -> Int[np.ndarray, " rows"]:
        """The rows of a round, ascending."""
        fresh, mastered = self._all(practice.fresh), self._all(practice.review)
        if not len(fresh):
            return mastered
        number = min(len(mastered), round(len(fresh) * self._review / (1 - self._review)))
        draw = np.random.PCG64(np.random.SeedSequence((self._seed, self._round, DRAW)))
        repeated = (
            mastered[np.argsort(draw.random_raw(len(mastered)), kind="stable")[:number]] if number else mastered[:0]
        )
        return np.sort(np.concatenate([fresh, repeated]))

    def _all(self, skills: Sequence[str]) -> Int[np.ndarray, " rows"]:
        parts = [self._rows[one] for one in skills if one in self._rows]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)

    def account(self) -> dict[str, Any]:
        """What was practised since which step, and how the gate stands."""
        return {"history": self._history, "gate": self._gate.state(), "teacher": self._teacher}

    def state(self) -> dict[str, Any]:
        """Where the next batch comes from, and what was measured."""
        return {
            "round": self._round,
            "position": self._position,
            "seed": self._seed,
            "gate": self._gate.state(),
            "history": self._history,
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises:
            DataError: the state is of other rows or skills, or is not a state.
        """
        if state.get("fingerprint") != self._fingerprint:
            raise DataError(
                f"the saved position belongs to other data or skills (fingerprint {state.get('fingerprint')}, now "
                f"{self._fingerprint}); resume with the same sources and order, or start a new run"
            )
        try:
            gate = self._gate.restored(state["gate"])
            self._round, self._position, self._seed = (int(state[name]) for name in ("round", "position", "seed"))
            self._gate, self._history = gate, [dict(one) for one in state["history"]]
            self._begin()
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the saved position cannot be read ({error!r}); use an earlier checkpoint") from error
        if not 0 <= self._position <= len(self._order):
            raise DataError("the saved position is not one of this data; use an earlier checkpoint")
