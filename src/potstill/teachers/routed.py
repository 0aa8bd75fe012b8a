"""Several teachers, each for the rows that name it in a column of the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

import torch

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, Signal, SparseLogprobs, Voice, Want
from potstill.teachers.ahead import forewarn, release


class RoutedTeacher:
    """Sends each row to the teacher that its value in `column` names, and puts the answers together again.

    Whoever is behind a name is a Teacher like any other: a model here, a service elsewhere, an ensemble.
    """

    def __init__(self, routes: Mapping[str, Teacher], *, column: str):
        """routes: value of the column -> teacher; one teacher may have several values.

        Raises ValueError without routes, SignalError when the teachers' vocabularies differ in size.
        """
        if not routes:
            raise ValueError("there are no routes: name a teacher for each value of the column")
        self._routes, self._column = dict(routes), column
        voices = {value: teacher.voice for value, teacher in self._routes.items()}
        sizes = {voice.vocabulary_size for voice in voices.values()}
        if len(sizes) > 1:
            named = ", ".join(f"`{value}` has {voice.vocabulary_size}" for value, voice in voices.items())
            raise SignalError(
                f"the teachers of teacher.routes must share one vocabulary, but of {named} entries: leave out those "
                "that differ, or set teacher.vocabulary"
            )
        identity = [column, sorted((value, voice.teacher) for value, voice in voices.items())]
        fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        self._voice = Voice(f"routed-{fingerprint[:32]}", sizes.pop())

    @property
    def voice(self) -> Voice:
        """A fingerprint of the teachers and of who is asked for what."""
        return self._voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """Each row's answer by its own teacher; each teacher reads its rows once. Members are asked for whole logits in
        place of headed states, since their heads differ. Raises SignalError for a row without a known name, and when
        states of layers are wanted."""
        if want.inside:
            raise SignalError(
                "routed teachers have no hidden states or attentions in common: take one teacher for an objective on "
                "layers"
            )
        answers = [
            (rows, teacher.signal(part, replace(want, headed=False))) for teacher, rows, part in self._parts(batch)
        ]
        entries = [signal.entries_K for _, signal in answers]
        if any(not _same(entries[0], one) for one in entries):
            raise SignalError(
                f"the teachers routed by `{self._column}` speak of different entries of the vocabulary: give all of "
                "them one tokenizer and one size"
            )
        logits = _together([(rows, signal.logits) for rows, signal in answers], len(batch.ids), self._column)
        return Signal(voice=self._voice, logits=logits, entries_K=entries[0])

    def expect(self, batch: Batch, want: Want) -> None:
        """Teachers elsewhere are told of the rows that they will be asked about."""
        for teacher, _, part in self._parts(batch):
            forewarn(teacher, part, replace(want, headed=False))

    def forget(self, batch: Batch | None = None) -> None:
        """See `Forewarned`."""
        if batch is None:
            for teacher in self._routes.values():
                release(teacher)
            return
        for teacher, _, part in self._parts(batch):
            release(teacher, part)

    def _parts(self, batch: Batch) -> list[tuple[Teacher, list[int], Batch]]:
        """Each teacher with its rows, once."""
        chosen = [self._teacher(batch, row) for row in range(len(batch.ids))]
        found = []
        for teacher in dict.fromkeys(chosen):
            rows = [row for row, one in enumerate(chosen) if one is teacher]
            found.append((teacher, rows, batch.take(rows)))
        return found

    def _teacher(self, batch: Batch, row: int) -> Teacher:
        slices = batch.slices[row] if row < len(batch.slices) else {}
        return self._routes[named_route(self._routes, self._column, slices, f"row {batch.ids[row]}")]


def named_route(routes: Mapping[str, object], column: str, slices: Mapping[str, str], place: str) -> str:
    """The route that a row names. place: the row in words. Raises SignalError with the row and the known names."""
    known = ", ".join(f"`{name}`" for name in routes)
    if column not in slices:
        have = ", ".join(f"`{name}`" for name in slices) or "none"
        raise SignalError(
            f"{place} has no column `{column}`, by which its teacher is chosen (its columns: {have}): name the column "
            "in data.train.columns.slices, or change teacher.route_by"
        )
    value = slices[column]
    if value not in routes:
        raise SignalError(
            f"{place}: its `{column}` is `{value}`, and teacher.routes knows {known}: add a route for it, or correct "
            "the row"
        )
    return value


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _together(
    parts: list[tuple[list[int], object]], rows_total: int, column: str
) -> DenseLogits | SparseLogprobs | None:
    kinds = {type(logits) for _, logits in parts}
    if len(kinds) > 1 or not kinds <= {DenseLogits, SparseLogprobs, type(None)}:
        named = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise SignalError(
            f"the teachers routed by `{column}` send {named}, which cannot stand in one batch: let all of them send "
            "dense logits, or all the same top k"
        )
    first = parts[0][1]
    if isinstance(first, DenseLogits):
        return DenseLogits(_joined([(rows, one.logits_BTV) for rows, one in parts], rows_total))
    if not isinstance(first, SparseLogprobs):
        return None
    shapes = {(one.logprobs_BTK.shape[-1], one.temperature) for _, one in parts}
    if len(shapes) > 1:
        raise SignalError(
            f"the teachers routed by `{column}` send different (k, temperature): {sorted(shapes)}: ask all of them for "
            "the same"
        )
    return SparseLogprobs(
        indices_BTK=_joined([(rows, one.indices_BTK) for rows, one in parts], rows_total),
        logprobs_BTK=_joined([(rows, one.logprobs_BTK) for rows, one in parts], rows_total),
        log_tail_BT=_joined([(rows, one.log_tail_BT) for rows, one in parts], rows_total),
        temperature=first.temperature,
    )


def _joined(parts: list[tuple[list[int], torch.Tensor]], rows_total: int) -> torch.Tensor:
    first = parts[0][1]
    whole = first.new_empty(rows_total, *first.shape[1:])
    for rows, values in parts:
        whole[rows] = values.to(first.dtype)
    return whole
