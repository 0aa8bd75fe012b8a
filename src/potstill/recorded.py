"""A run as its folder tells it. No torch: a report, a card and the gate need no models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from potstill.core.finding import Finding
from potstill.core.record import RunRecord
from potstill.folder import RunFolder
from potstill.recipe_yaml import load_recipe

MEASURED = ("findings.json", "export.json")


def recorded(folder: RunFolder) -> RunRecord:
    """The record of a run: what was measured, and what the gate found."""
    gate = folder.read_json("gate.json") or {}
    found = [values for name in MEASURED for values in folder.read_json(name) or ()]
    return RunRecord(
        folder=str(folder.root),
        recipe=load_recipe(folder.config).model_dump(mode="json"),
        ledger=folder.read_json("ledger.json") or {},
        metrics=folder.read_lines("metrics.jsonl"),
        findings=[finding_of(values) for values in (*found, *gate.get("findings", ()))],
        gate=gate,
    )


def finding_of(values: Mapping[str, Any]) -> Finding:
    """A finding as it was written."""
    interval = values["interval"]
    return Finding(**{**values, "interval": None if interval is None else (interval[0], interval[1])})
