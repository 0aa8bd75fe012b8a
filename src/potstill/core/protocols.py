"""The seams between rooms. A protocol lives here when two or more rooms need it, and has one level only.

They are checkable at run time because the test run checks every annotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from potstill.core.batch import Batch
from potstill.core.outcome import Loss
from potstill.core.progress import Progress
from potstill.core.signal import Outputs, Signal, Voice, Want


@runtime_checkable
class Teacher(Protocol):
    """Comments on a batch during training. Its signal carries no gradient."""

    @property
    def voice(self) -> Voice: ...

    def signal(self, batch: Batch, want: Want) -> Signal: ...


@runtime_checkable
class Forward(Protocol):
    """A model as training and evaluation see it: a batch in, outputs out."""

    def __call__(self, batch: Batch, want: Want) -> Outputs: ...


@runtime_checkable
class Objective(Protocol):
    """From signal and outputs to a loss.

    counts: the denominator of each part for one batch, known before any forward pass.
    loss: `totals` are those denominators summed over all the micro-batches (and processes) of the step; each part is
    divided by its total, so accumulation changes nothing. Without totals the batch's own counts are used.
    """

    def want(self) -> Want: ...

    def counts(self, batch: Batch) -> Mapping[str, float]: ...

    def loss(
        self, batch: Batch, signal: Signal | None, outputs: Outputs, totals: Mapping[str, float] | None = None
    ) -> Loss: ...


@runtime_checkable
class BatchSource(Protocol):
    """An endless, seeded order of batches whose position is a small JSON value."""

    def next(self) -> Batch: ...

    def state(self) -> Mapping[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Heeding(Protocol):
    """A BatchSource that goes by what was measured. It is handed each evaluation, and its state holds what it made of
    it."""

    def heed(self, progress: Progress) -> None: ...


@runtime_checkable
class Observer(Protocol):
    """A read-only watcher of a run. `event` is "start", "step", "skip", "evaluate", "checkpoint" or "end"."""

    def notice(self, event: str, progress: Progress, values: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Shaping(Protocol):
    """What a student becomes while it learns, beside what its weights learn: a function of the step, applied between
    two of them.

    settled: evaluations before this step are not of the student that leaves, and choose nothing. before: what is due
    when `step` steps are done and the next one begins; it may come twice. reach: give a module that was just built the
    parts that it has after `step` steps, so that a save of that moment fits.
    """

    @property
    def settled(self) -> int: ...

    def before(self, step: int) -> None: ...

    def reach(self, step: int) -> None: ...
