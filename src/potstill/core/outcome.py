"""Loss and Finding: what a step and a judge return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from potstill.core.finding import Finding, Verdict
from potstill.core.shapes import Scalar

__all__ = ["Finding", "Loss", "Verdict"]


@dataclass(frozen=True, slots=True)
class Loss:
    """total carries the gradient; parts are detached weighted contributions that sum to it; counts are the weights
    behind each part in this batch (its own denominator, so that one part never dilutes another). shares: which share
    of the step's positions was taught by whom, as far as this batch goes; over the whole step they sum to 1."""

    total: Scalar
    parts: Mapping[str, float]
    counts: Mapping[str, float]
    shares: Mapping[str, float] = field(default_factory=dict)
