"""RunRecord: what happened in a run, as values. Torch-free, so that reports and cards need no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.core.finding import Finding


@dataclass(frozen=True, slots=True)
class RunRecord:
    """folder: where it all lies. recipe: the resolved recipe. ledger: models, data and their lineage.

    metrics: every logged step and evaluation, per arm ("teacher", "student", "labels", ...). findings: what was
    measured. gate: whether the student may leave, what stops it, and who let what pass.
    """

    folder: str
    recipe: Mapping[str, Any]
    ledger: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    findings: Sequence[Finding] = ()
    gate: Mapping[str, Any] = field(default_factory=dict)

    def finding(self, name: str, subject: str = "student") -> Finding | None:
        """The finding of that name about that subject, or None when it was not measured."""
        return next((f for f in self.findings if f.name == name and f.subject == subject), None)

    def value(self, name: str, subject: str = "student") -> float | None:
        """Its value alone."""
        found = self.finding(name, subject)
        return None if found is None else found.value
