"""What one training is handed, and what it hands back. Values only: whoever assembles them knows the rooms, the loop
does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from potstill.core.errors import InputError
from potstill.core.protocols import BatchSource, Forward, Objective, Shaping, Teacher
from potstill.train.precision import Precision
from potstill.train.ranks import Alone, Ranks
from potstill.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Companion:
    """Parameters that learn beside the student's and are no part of it, as an objective may have: saved with the
    training, never in a product.

    learning_rate: before the schedule. gradient_limit: each entry of their gradient is clamped to it, and they stay out
    of the norm that bounds the student's, which would otherwise learn less wherever they learn much.
    """

    module: nn.Module
    learning_rate: float
    gradient_limit: float


class Unshaped:
    """The `Shaping` of a student that stays what it is."""

    settled = 0

    def before(self, step: int) -> None:
        """Nothing is due."""

    def reach(self, step: int) -> None:
        """Nothing has changed."""


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything one training needs.

    folder: holds `checkpoints/`, `metrics.jsonl` and `precision.json`; nothing is written outside it. fingerprint: the
    JSON values that a checkpoint must share with this run to be continued; when they differ, the difference is shown.
    forward: runs `module`, so that its gradients reach the module's parameters. source: stands at its beginning.
    evaluate: called with the module in eval mode; returns metrics by name, and polls the stop flag if it takes long.
    head: names of the parameters that `settings.head_learning_rate` is for. companion: what else learns.
    shaping: what the student becomes meanwhile. resume_command: said to the user. ranks: who shares the work; the
    steps are those of one process, however many share them.
    """

    settings: TrainSettings
    folder: Path
    fingerprint: Mapping[str, Any]
    max_steps: int
    seed: int
    module: nn.Module
    forward: Forward
    objective: Objective
    source: BatchSource
    teacher: Teacher | None = None
    evaluate: Callable[[], Mapping[str, float]] | None = None
    head: tuple[str, ...] = ()
    companion: Companion | None = None
    shaping: Shaping = field(default_factory=Unshaped)
    resume_command: str = "potstill resume RUN"
    ranks: Ranks = field(default_factory=Alone)

    @property
    def learning(self) -> tuple[nn.Module, ...]:
        """Every module with parameters that this training changes."""
        return (self.module,) if self.companion is None else (self.module, self.companion.module)

    @property
    def checkpoints(self) -> Path:
        """Where the saves lie."""
        return self.folder / "checkpoints"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a training ended. The module holds the weights of `step`; `load_weights(best, module)` fetches the best.

    step: optimiser steps taken, skipped ones included. best_value: of `metric_for_best_model`, None when nothing was
    evaluated (then best is last). metrics: the last evaluation. seconds: spent training, over all resumed parts.
    """

    step: int
    last: Path
    best: Path
    best_step: int
    best_value: float | None
    metrics: Mapping[str, float]
    stopped_early: bool
    skipped: int
    examples: int
    tokens: int
    seconds: float
    precision: Precision


def steps_to_take(settings: TrainSettings, rows: int) -> int:
    """Optimiser steps of a training over `rows` rows; a last, smaller batch of a pass counts as one.

    Raises InputError when the settings name no length.
    """
    if settings.max_steps is not None:
        return settings.max_steps
    if settings.num_train_epochs is None:
        raise InputError("train: neither max_steps nor num_train_epochs is set: set one of them")
    batches = math.ceil(rows / settings.per_device_train_batch_size)
    steps_of_a_pass = math.ceil(batches / settings.gradient_accumulation_steps)
    return max(1, math.ceil(settings.num_train_epochs * steps_of_a_pass))
