"""The last step of a run: the student leaves as a folder, with a card made from the run's record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill import assemble
from potstill.bench import Bench
from potstill.core.lineage import Lineage
from potstill.core.outcome import Finding
from potstill.core.record import RunRecord
from potstill.data.prepare import Prepared
from potstill.durable import replace_file, writing
from potstill.export.card import CardFacts, model_card
from potstill.export.formats import FORMATS, place
from potstill.export.huggingface import COMPARISON
from potstill.export.rows import NO_ROWS, Rows
from potstill.policy.combine import licence_of
from potstill.release import lineage_of
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.settings import ModelSettings


def publish(bench: Bench, record: RunRecord) -> list[Finding]:
    """Write every format the recipe names, each loaded again and compared; what differs is kept as NAME.failed."""
    loaded, prepared = assemble.model(bench, ModelSettings(model_name_or_path="stage:student"))
    pooled = isinstance(loaded.module, MeanPooledClassifier)
    facts = card_facts(record, "sentence-transformers" if pooled else "transformers")
    settings = bench.recipe.export
    graphs = set(settings.formats) != {"huggingface"}
    rows = rows_for(prepared, settings.calibration_rows) if graphs else NO_ROWS
    findings: list[Finding] = []
    for name in settings.formats:
        bench.stop.check()
        target = bench.folder.root / place(name)
        bench.say(f"exporting {name} to {target}")
        exported = FORMATS[name].export(
            loaded, target, task=bench.recipe.task, facts=facts, settings=settings, rows=rows
        )
        if not exported.published:
            bench.say(f"the export differs from the trained student and was not published: see {exported.folder}")
        findings += exported.findings
    return findings


def write_card(folder: Path, record: RunRecord, name: str) -> None:
    """The card in the folder of a format, from what is known now. Raises FolderError and DiskError."""
    known = json.loads((folder / COMPARISON).read_text(encoding="utf-8")) if (folder / COMPARISON).is_file() else ()
    library = "sentence-transformers" if (folder / "modules.json").is_file() else FORMATS[name].library
    text = model_card(card_facts(record, library), [Finding.from_json(values) for values in known])
    with writing(folder):
        replace_file(folder / "README.md", text.encode())


def rows_for(prepared: Prepared, number: int) -> Rows:
    """So many training rows, evenly spread and each alone, so that no padding is calibrated on; all of validation, or
    of test where there is none."""
    train = prepared.train.encoded
    places = (
        {position * len(train) // number for position in range(number)} if number < len(train) else range(len(train))
    )
    other = prepared.validation or prepared.test
    return Rows(
        calibration=[prepared.collate([train[place]], 0) for place in sorted(places)],
        held_out=[] if other is None else [prepared.collate([one], 0) for one in other.encoded],
    )


def card_facts(record: RunRecord, library: str) -> CardFacts:
    """What the card says, from the record alone."""
    recipe = record.recipe
    entries = record.ledger.get("entries", ())
    student = next(entry for entry in entries if entry["role"] == "stage student")
    origins = {entry["role"]: _lineage(entry) for entry in entries if entry["role"] != "data"}
    data = [entry for entry in entries if entry["role"] == "data"]
    origins |= {f"data {number}": _lineage(entry) for number, entry in enumerate(data, 1)}
    taught = recipe["teacher"] or {"models": (), "endpoint": None}
    teachers = [settings["model_name_or_path"] for settings in taught["models"]]
    if taught["endpoint"]:
        teachers += [entry["source"] for entry in entries if entry["role"] == "teacher"]
    graph = record.ledger.get("graph", {"nodes": ()})
    own = next((node for node in reversed(graph["nodes"]) if node["kind"] == "checkpoint"), None)
    return CardFacts(
        name=recipe["export"]["name"] or recipe["name"],
        task=recipe["task"],
        licence=licence_of(lineage_of(record.ledger)) if own else student["licence"],
        base_models=(student["base"],),
        teachers=tuple(teachers),
        datasets=tuple(entry["source"] for entry in data),
        library=library,
        recipe=recipe["name"],
        description=recipe["description"],
        lineage=origins,
        findings=record.findings,
        overrides=record.gate.get("overrides", ()),
        ledger=own["hash"] if own else "",
    )


def _lineage(entry: Mapping[str, Any]) -> Lineage:
    known = {name: entry[name] for name in ("maker", "generation") if name in entry}
    return Lineage(source=entry["source"], revision=entry["revision"], licence=entry["licence"], **known)
