"""The order in which a stage reads its rows, from its settings: plain passes, harder ones, or skill after skill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from potstill import assemble
from potstill.assemble import Heard
from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.batch import Batch
from potstill.core.errors import DataError, InputError, SignalError
from potstill.core.progress import Progress
from potstill.core.protocols import BatchSource, Forward, Teacher
from potstill.core.signal import DenseLogits, Outputs, Want
from potstill.data.curriculum.batches import METRIC, SkillBatches
from potstill.data.curriculum.gates import Gate, Mastery, Zone
from potstill.data.difficulty.batches import DifficultBatches
from potstill.data.difficulty.schedule import batches as batches_of
from potstill.data.difficulty.score import row_losses
from potstill.data.encoded import Encoded
from potstill.data.order import Batches, in_order
from potstill.data.order_settings import MasterySettings, ZoneSettings
from potstill.data.prepare import Prepared
from potstill.evaluate.skills import RightRows
from potstill.recipe_rules import nearest
from potstill.students.load import LoadedModel
from potstill.train.plan import steps_to_take

Curriculum = MasterySettings | ZoneSettings
Losses = Float[np.ndarray, " N"]


@dataclass(frozen=True, slots=True)
class Learner:
    """The student in training: its module, and its answers."""

    module: nn.Module
    answer: Forward


def length(stage: StageSettings, rows: int) -> int:
    """Optimiser steps of a stage's training.

    Raises:
        InputError: more steps than a schedule of difficulty has, or no length.
    """
    train, order = stage.train, stage.order
    if order is None or order.difficulty is None:
        return steps_to_take(train, rows)
    found = order.difficulty
    there = batches_of(found.schedule, found.passes, rows, train.per_device_train_batch_size)
    steps = there // train.gradient_accumulation_steps
    if train.max_steps is not None and train.max_steps > steps:
        raise InputError(
            f"train.max_steps is {train.max_steps}, and the {found.passes} passes of order.difficulty over {rows} rows "
            f"have {steps}: lower it, remove it, or raise order.difficulty.passes"
        )
    if not steps:
        raise InputError(
            f"{rows} rows give {there} batches, and a step takes {train.gradient_accumulation_steps}: lower "
            f"train.gradient_accumulation_steps, or take more rows"
        )
    return train.max_steps or steps


def source(
    bench: Bench,
    stage: StageSettings,
    learner: Learner,
    heard: Heard,
    prepared: Prepared,
    start: Mapping[str, float],
) -> BatchSource:
    """The batches of a stage, in its order. start: what `at_first` found.

    Raises:
        DataError: a row without the label or the skill that the order goes by, or a skill that nothing can measure.
    """
    rows, train, order = assemble.rows_of(stage, prepared), stage.train, stage.order
    size, seed, grouped = train.per_device_train_batch_size, bench.recipe.seed, train.group_by_length
    if order is None:
        return Batches(rows, heard.collate, size, seed, grouped)
    if order.difficulty is not None:
        truth = order.difficulty.truth
        if truth == "label" and bench.recipe.task == "classify":
            _refuse_unlabelled(rows)
        losses = RowLosses(bench, learner, heard, rows, truth == "teacher")
        return DifficultBatches(
            rows, heard.collate, size, seed,
            settings=order.difficulty, student=losses.student, teacher=losses.teacher, group_by_length=grouped,
        )  # fmt: skip
    assert order.curriculum is not None, "an order has one of its three"
    name, settings = order.curriculum
    column = settings.slice_by
    skills = [_skill(one, column, name, "training") for one in rows]
    gate = _gate(settings, skills)
    teacher = _teachers_scores(bench, settings, heard)
    found = SkillBatches(
        rows, heard.collate, size, seed,
        gate=gate, skills=skills, teacher=teacher or dict.fromkeys(skills, 1.0), review=settings.review,
        group_by_length=grouped,
    )  # fmt: skip
    if missing := sorted({one for one in skills if f"{METRIC}{one}" not in start}):
        raise DataError(
            f"no validation row has the skill `{missing[0]}`, so nothing can tell when it is mastered: add rows of it "
            f"to data.validation, or leave its training rows out"
        )
    found.heed(Progress(0, 1, metrics=start))
    return found


def at_first(bench: Bench, stage: StageSettings, made: LoadedModel, prepared: Prepared) -> Mapping[str, float]:
    """What the student knows before it learns, where the order goes by that. To be asked before the module is spread
    over ranks: what a spread one gathers in an evaluation no training can use."""
    if stage.order is None or stage.order.curriculum is None:
        return {}
    made.module.eval()
    measured = dict(evaluation(bench, stage, Learner(made.module, assemble.forward(made.module)), prepared)())
    return bench.ranks.lead(lambda: measured)


def evaluation(
    bench: Bench, stage: StageSettings, learner: Learner, prepared: Prepared
) -> Callable[[], Mapping[str, float]]:
    """What measures the student on the validation rows; under a curriculum skill by skill too."""
    split, curriculum = prepared.validation, stage.order.curriculum if stage.order else None
    assert split is not None, "there are validation rows"
    if curriculum is None:
        return lambda: assemble.scores(bench, learner.answer, prepared, split)
    return lambda: _with_skills(bench, curriculum[1], learner.answer, prepared)


def _with_skills(bench: Bench, settings: Curriculum, answer: Forward, prepared: Prepared) -> dict[str, float]:
    split = prepared.validation
    assert split is not None, "a recipe with a curriculum has validation rows"
    watched = RightRows(answer)
    found = dict(assemble.scores(bench, watched, prepared, split))
    skill_of = {one.row: one.slices.get(settings.slice_by, "") for one in split.encoded}
    return found | {f"{METRIC}{name}": value for name, value in sorted(watched.shares(skill_of).items())}


def _teachers_scores(bench: Bench, settings: Curriculum, heard: Heard) -> dict[str, float]:
    """By skill, of the best teacher there; none without a teacher."""
    best: dict[str, float] = {}
    for teacher, own in heard.members:
        for name, value in _with_skills(bench, settings, _spoken(teacher), own).items():
            if name.startswith(METRIC):
                skill = name.removeprefix(METRIC)
                best[skill] = max(best.get(skill, 0.0), value)
    return dict(bench.ranks.lead(lambda: best))


def _spoken(teacher: Teacher) -> Forward:
    def forward(batch: Batch, want: Want) -> Outputs:
        return Outputs(_dense(teacher, batch).logits_BTV)

    return forward


def _dense(teacher: Teacher, batch: Batch) -> DenseLogits:
    signal = teacher.signal(batch, Want())
    if not isinstance(signal.logits, DenseLogits):
        raise SignalError(
            f"order needs whole logits of teacher {teacher.voice.teacher}, which sends {type(signal.logits).__name__}: "
            f"take a teacher that sends them, or remove order"
        )
    return signal.logits


def _gate(settings: Curriculum, skills: Sequence[str]) -> Gate:
    named = tuple(sorted(set(skills)))
    if isinstance(settings, ZoneSettings):
        return Zone(named, settings.mastered_at, settings.width)
    asked = [*settings.prerequisites, *(one for some in settings.prerequisites.values() for one in some)]
    if unknown := [one for one in asked if one not in named]:
        near = nearest(unknown[0], named)
        raise DataError(
            f"order.mastery.prerequisites names the skill `{unknown[0]}`, which no training row has"
            + (f" (nearest: `{near}`)" if near else "")
            + f"; the skills are {', '.join(named[:20])}"
        )
    return Mastery(named, settings.prerequisites, settings.opens_at, settings.patience)


def _skill(one: Encoded, column: str, order: str, where: str) -> str:
    if not (found := one.slices.get(column, "")):
        raise DataError(
            f"{where} row {one.row} ({one.ids[0]}) has no `{column}`, by which order.{order} goes: name the column in "
            f"columns.slices of its source, and give every row a value"
        )
    return found


def account(source: BatchSource) -> dict[str, Any]:
    """What an order that is not plain did, for the stage's record."""
    assert isinstance(source, DifficultBatches | SkillBatches), "a plain order has nothing to tell"
    return source.account()


def _refuse_unlabelled(rows: Sequence[Encoded]) -> None:
    if bare := sum(one.label is None for one in rows):
        raise DataError(
            f"{bare} of {len(rows)} training rows have no label, and order.difficulty.truth is `label`: set it to "
            f"`teacher`, or leave these rows out"
        )


@dataclass(slots=True)
class RowLosses:
    """What teacher and student lose on the truth of each row, in the order of `rows`. by_teacher: the teacher's first
    choice is the truth; the teacher must then be asked first."""

    bench: Bench
    learner: Learner
    heard: Heard
    rows: Sequence[Encoded]
    by_teacher: bool
    chosen: dict[int, int] = field(default_factory=dict)

    def teacher(self) -> Losses:
        """Of the teacher as the stage hears it: from recorded answers where there are some."""
        teacher = self.heard.teacher
        assert teacher is not None, "a recipe with difficulty has a teacher"
        self.bench.say(f"asking the teacher how hard {len(self.rows):,} rows are")

        def asked(batch: Batch) -> torch.Tensor:
            logits_BTV = _dense(teacher, batch).logits_BTV
            if self.by_teacher:
                self.chosen |= dict(zip(batch.rows, logits_BTV[:, 0].argmax(-1).tolist(), strict=True))
            return logits_BTV

        return self._losses(asked)

    def student(self) -> Losses:
        """Of the student as it is now. Its mode is training before and after."""
        self.bench.say(f"asking the student how hard {len(self.rows):,} rows are")
        self.learner.module.eval()
        try:
            return self._losses(self._answered)
        finally:
            self.learner.module.train()

    def _answered(self, batch: Batch) -> torch.Tensor:
        logits_BTV = self.learner.answer(batch, Want(teacher=False)).logits_BTV
        assert logits_BTV is not None, "whoever is asked for logits answers with them"
        return logits_BTV

    @torch.no_grad()
    def _losses(self, logits_of: Callable[[Batch], torch.Tensor]) -> Losses:
        place = {one.row: position for position, one in enumerate(self.rows)}
        found = np.full(len(self.rows), np.nan)
        size = self.bench.recipe.train.per_device_eval_batch_size
        for batch in assemble.polled(self.bench, in_order(self.rows, self.heard.collate, size)):
            logits_BTV = logits_of(batch)
            targets_BT, weights_BT = batch.targets_BT, batch.weights["hard"]
            if self.by_teacher:
                targets_BT = torch.tensor([[self.chosen[row]] for row in batch.rows])
                weights_BT = torch.ones_like(weights_BT)
            device = logits_BTV.device
            losses = row_losses(logits_BTV, targets_BT.to(device), weights_BT.to(device))
            found[[place[row] for row in batch.rows]] = losses.numpy()
        told: list[float] = self.bench.ranks.lead(found.tolist)
        return np.array(told)
