"""Chains of stages: whose product taught whom, by hash, and hops that pay, or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.errors import DataError, FolderError
from potstill.data.encoded import Encoded
from potstill.sizes import compare_sizes, teachers_of
from potstill.students.record import ModelRecord
from potstill.students.settings import ModelSettings
from potstill.train.judge import gain
from potstill.train.plan import TrainResult

# What a stage that was not trained did, and what it learnt from: nothing.
IDLE = {"steps": 0, "examples": 0, "tokens": 0, "seconds": 0.0, "skipped": 0, "stopped_early": False}


def hash_of(record: ModelRecord) -> str:
    """16 hexadecimal digits of the hash of a model's weights as they are in memory."""
    return record.weights_sha256[:16]


def refuse_changed(bench: Bench, settings: ModelSettings, record: ModelRecord) -> None:
    """The product of a stage is loaded as that stage left it. Raises FolderError with both hashes otherwise."""
    kind, _, name = settings.model_name_or_path.partition(":")
    if kind != "stage":
        return
    left = product_of(bench, name)
    known = bench.folder.stage_record(left).get("hash")
    if known is not None and known != hash_of(record):
        place = bench.folder.root / "stages" / left
        raise FolderError(
            f"{place / 'model'}: its weights have hash {hash_of(record)}, and stage {left} left {known} there: another "
            f"model would stand in the chain; restore the folder, or remove {place} and run "
            f"`potstill resume {bench.folder.root}`"
        )


def refuse_larger(bench: Bench, stage: StageSettings, student: ModelRecord) -> None:
    """A tutor with more parameters than its teacher, both as loaded. Raises ModelError."""
    sizes = [bench.records[one.model_name_or_path].parameters for one in teachers_of(stage)]
    compare_sizes(bench.recipe, stage, student.parameters, sizes)


def refuse_unlabelled_choice(bench: Bench, stage: StageSettings, rows: Sequence[Encoded]) -> None:
    """Where every row is to be taught by its label, every row has one. Raises DataError."""
    bare = sum(one.label is None for one in rows) if bench.recipe.task == "classify" else 0
    if stage.teacher is not None and stage.teacher.choose == "label" and bare:
        raise DataError(
            f"teacher.choose is `label`, and {bare} of {len(rows)} training rows have none: set use: labelled, or "
            "choose: closer"
        )


def parents(bench: Bench, stage: StageSettings) -> list[dict[str, str]]:
    """Whom the stage's product was made from and taught by, each with the hash of its weights as they were loaded."""
    named = [("student", stage.student.model_name_or_path)]
    if stage.teacher is not None:
        named += [("teacher", one.model_name_or_path) for one in stage.teacher.models]
        named += [("teacher", url) for url in stage.teacher.urls[:1]]
    return [{"role": role, "name": name, "hash": hash_of(bench.records[name])} for role, name in named]


def product_of(bench: Bench, name: str) -> str:
    """The stage whose model is loaded as `stage:NAME`: itself, or the better one where its hop did not pay."""
    hop = bench.folder.stage_record(name).get("hop")
    return str(hop["product"]) if hop else name


def ended(bench: Bench, stage: StageSettings) -> str | None:
    """Why a stage is not trained: the hop that it would go on from no longer paid. The last stage always is."""
    if stage.hop is None or stage.name == bench.recipe.final.name:
        return None
    before = bench.folder.stage_record(stage.hop.over).get("hop")
    if before is None or before["pays"]:
        return None
    return f"stage {stage.name} is not trained: its hop is over {stage.hop.over}, which no longer paid"


def idle_record(bench: Bench, stage: StageSettings, reason: str) -> dict[str, Any]:
    """The record of a stage that was not trained: what stands under its name is what stands under the one before."""
    assert stage.hop is not None, "its hop has ended"
    left, value = _stands(bench, stage.hop.over)
    hop = {"over": stage.hop.over, "trained": False, "pays": False, "product": left, "product_value": value}
    found = {**bench.folder.stage_record(left), **IDLE, "teachers": [], "parents": [], "order": None, "left_out": []}
    found.pop("rollout", None)
    return found | {"hop": hop | {"words": f"{reason}; stage:{stage.name} is the model of stage {left}"}}


def verdict(bench: Bench, stage: StageSettings, result: TrainResult) -> dict[str, Any] | None:
    """Whether a trained stage pays by its own rule, with the numbers and in words; None without a rule."""
    if stage.hop is None:
        return None
    before, reference = _stands(bench, stage.hop.over)
    value, least, metric = result.best_value, stage.hop.least_gain, stage.train.metric_for_best_model
    assert value is not None, "a recipe with hops has validation rows"
    gained = gain(metric, value, reference)
    pays = gained >= least
    last = stage.name == bench.recipe.final.name
    left, stands = (stage.name, value) if pays or last or gained > 0 else (before, reference)
    words = (
        f"stage {stage.name} over {stage.hop.over}: {metric} {value:.4f} after {reference:.4f}, a gain of "
        f"{gained:.4f}, and hop.least_gain is {least:g}: "
    )
    if pays:
        words += "the hop pays"
    else:
        words += "the hop no longer pays" + ("" if last else f"; stage:{stage.name} is the model of stage {left}")
    return {
        "over": stage.hop.over, "trained": True, "metric": metric, "value": value, "reference": reference,
        "gain": gained, "least_gain": least, "pays": pays, "product": left, "product_value": stands, "words": words,
    }  # fmt: skip


def _stands(bench: Bench, name: str) -> tuple[str, float]:
    """The stage whose model stands under a name, and its value on the validation rows."""
    record = bench.folder.stage_record(name)
    hop = record.get("hop")
    return (hop["product"], hop["product_value"]) if hop else (name, record["best_value"])


def told(records: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The hops of a run for its ledger, in the order of its stages."""
    return [{"stage": name, **record["hop"]} for name, record in records.items() if record.get("hop")]
