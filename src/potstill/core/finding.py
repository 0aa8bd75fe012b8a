"""Finding: what a judge returns. Torch-free, because some judges read licences and logs only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "warn", "stop"]


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
