"""DistiLLM's adaptive off-policy rule: whether a batch is data, fresh text of the student, or text it wrote before.

Ko et al. 2024, arXiv:2402.03898, section 3.2, and the published code, whose thresholds these are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from potstill.train.settings import AdaptiveSettings

Origin = Literal["data", "written", "replayed"]


@dataclass(frozen=True, slots=True)
class Scheduler:
    """probability: phi, of learning from the student's text. reference: the validation loss that phi was last judged
    by, in nats; None before the first one."""

    probability: float
    reference: float | None = None


def after_evaluation(scheduler: Scheduler, loss: float, settings: AdaptiveSettings) -> Scheduler:
    """phi rises where the loss is `margin` above the reference, and only then the reference moves.

    Hearing the same loss twice is hearing it once, since the margin is above zero.
    """
    if scheduler.reference is None:
        return replace(scheduler, reference=loss)
    if loss < scheduler.reference + settings.margin:
        return scheduler
    return Scheduler(min(1.0, scheduler.probability + settings.rise), loss)


def origin(scheduler: Scheduler, drawn: float, *, left: float, full: bool) -> Origin:
    """Where the next batch comes from. drawn: uniform in [0, 1). left: share of the training still to come. full: the
    replay buffer holds as much as it can, before which nothing is replayed."""
    if drawn >= scheduler.probability:
        return "data"
    return "written" if not full or drawn < scheduler.probability * left else "replayed"
