"""A run as its folder tells it. No torch: a report, a card and the gate need no models."""

from __future__ import annotations

from potstill.core.finding import Finding
from potstill.core.record import RunRecord
from potstill.folder import RunFolder
from potstill.recipe_yaml import load_recipe

MEASURED = ("findings.json", "export.json")


def recorded(folder: RunFolder) -> RunRecord:
    """The record of a run: what was measured, and what the gate found."""
    gate = folder.read_json("gate.json") or {}
    found = [values for name in MEASURED for values in folder.read_json(name) or ()]
    deployed = [values for of_format in (folder.read_json("deployed.json") or {}).values() for values in of_format]
    return RunRecord(
        folder=str(folder.root),
        recipe=load_recipe(folder.config).model_dump(mode="json"),
        ledger=folder.read_json("ledger.json") or {},
        metrics=folder.read_lines("metrics.jsonl"),
        findings=[Finding.from_json(values) for values in (*found, *deployed, *gate.get("findings", ()))],
        gate=gate,
    )
