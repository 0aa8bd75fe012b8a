"""Loss and Finding: what a step and a judge return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the shapes know torch; a finding does not
    from potstill.core.shapes import Scalar

Verdict = Literal["pass", "warn", "stop"]


@dataclass(frozen=True, slots=True)
class Loss:
    """total carries the gradient; parts are detached weighted contributions that sum to it; counts are the weights
    behind each part in this batch (its own denominator, so that one part never dilutes another). shares: which share
    of the step's positions was taught by whom, as far as this batch goes; over the whole step they sum to 1."""

    total: Scalar
    parts: Mapping[str, float]
    counts: Mapping[str, float]
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One measured thing. name: dotted ("quality.accuracy"). subject: who was measured ("teacher", "student", ...).

    interval: 95 % bounds where there is one. bound: the limit it was held against. evidence: rows, curves, units.
    """

    name: str
    value: float
    subject: str = "student"
    interval: tuple[float, float] | None = None
    bound: float | None = None
    verdict: Verdict = "pass"
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values for findings.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Finding:
        """The finding that `as_json` told."""
        interval = values["interval"]
        return cls(**{**values, "interval": None if interval is None else (interval[0], interval[1])})
