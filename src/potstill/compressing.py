"""A student made smaller in a run: from the settings of a stage to what is cut before and after its training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from potstill import assemble, ordering
from potstill.bench import Bench
from potstill.compress.choose import UnitScores, choose
from potstill.compress.integers import save_integers
from potstill.compress.joint import Shaping, timetable
from potstill.compress.movement import install
from potstill.compress.plan import PrunePlan
from potstill.compress.plan_text import load_plan, save_plan
from potstill.compress.prune import apply
from potstill.compress.qat import prepare_qat
from potstill.compress.scheme import SCHEMES
from potstill.compress.scores import block_influence, channel_scores, gate_scores
from potstill.compress.settings import PruneSettings, QuantiseSettings
from potstill.config import StageSettings
from potstill.core.batch import Batch
from potstill.core.errors import DataError, InputError
from potstill.data.encoded import Encoded
from potstill.data.prepare import Prepared
from potstill.students.fingerprint import recorded
from potstill.students.load import LoadedModel

Evaluate = Callable[[], Mapping[str, float]]

PLAN = "plan.json"
RECORD = "compress.json"


@dataclass(frozen=True, slots=True)
class Student:
    """Who is trained, and what it becomes meanwhile."""

    made: LoadedModel
    shaping: Shaping | None = None


def refuse_ranks(bench: Bench) -> None:
    """Ranges and scores are found by one process. Raises InputError where several share a training that needs them."""
    for stage in (*bench.recipe.stages, bench.recipe.final):
        while_learning = stage.compress and (stage.compress.movement or stage.compress.quantise)
        if while_learning and bench.ranks.size > 1:
            raise InputError(
                f"compress (stage {stage.name}): {bench.ranks.size} ranks, and movement and quantise shape a student "
                "that one process holds: start without torchrun, or take compress.prune alone"
            )


def pruned(bench: Bench, stage: StageSettings, made: LoadedModel, prepared: Prepared, place: Path) -> LoadedModel:
    """The student with what compress.prune takes out of it; by the plan that lies in `place`, if one does.

    Raises DataError without a row to score on; ModelError for what the architecture's config cannot say.
    """
    settings = stage.compress.prune if stage.compress else None
    if settings is None:
        return made
    file = place / PLAN

    def plan() -> dict[str, Any]:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_plan(scored_plan(bench, made, prepared, settings), file)
        return load_plan(file).model_dump(mode="json")

    found = PrunePlan.model_validate(bench.ranks.lead(plan))
    for note in found.notes:
        bench.say(f"compress.prune: {note}")
    return smaller(made, apply(made.module, found), found)


def scored_plan(bench: Bench, made: LoadedModel, prepared: Prepared, settings: PruneSettings) -> PrunePlan:
    """Scores that are needed, and no others, and what they leave."""
    classify = bench.recipe.task == "classify"
    rows = prepared.train.labelled if classify else prepared.train.encoded
    if not rows:
        raise DataError("compress.prune scores units on rows with a label, and no training row has one: give some")
    kinds = settings.keep.keys() | settings.remove.keys()
    bench.say(f"scoring {', '.join(sorted(kinds))} on {min(settings.rows, len(rows)):,} rows")
    batches = calibration(bench, rows, prepared, settings.rows)
    gates = gate_scores(made.module, batches) if kinds & {"neurons", "heads", "groups"} else None
    scores = UnitScores(
        neurons=gates.neurons if gates else None,
        heads=gates.heads if gates else None,
        groups=gates.groups if gates else None,
        width=channel_scores(made.module, batches) if "width" in kinds else None,
        blocks=block_influence(made.module, batches) if "blocks" in kinds else None,
    )
    return choose(made.module, scores, keep=settings.keep, remove=settings.remove)


def calibration(bench: Bench, rows: Sequence[Encoded], prepared: Prepared, number: int) -> list[Batch]:
    """So many rows, evenly spread over all, in batches as an evaluation has them."""
    chosen = [rows[place * len(rows) // number] for place in range(number)] if number < len(rows) else list(rows)
    size = bench.recipe.train.per_device_eval_batch_size
    return [prepared.collate(chosen[start : start + size], 0) for start in range(0, len(chosen), size)]


def shaped(bench: Bench, stage: StageSettings, made: LoadedModel, prepared: Prepared, steps: int | None) -> Student:
    """The student with grids and gates in place, where the stage shapes it while it learns. steps: as of `run_stage`.

    Raises InputError for a training too short for its timetable, ModelError for an architecture that cannot be cut or
    quantised so, and what `prepare_qat` raises.
    """
    settings = stage.compress
    if steps == 0 or settings is None or (settings.movement is None and settings.quantise is None):
        return Student(made)
    movement, quantise = settings.movement, settings.quantise
    rows = assemble.rows_of(stage, prepared)
    times = timetable(
        steps or ordering.length(stage, len(rows)),
        warmup=(movement.start, movement.end) if movement else None,
        freeze_at=quantise.freeze_at if quantise else None,
    )
    if movement is not None:
        times = replace(
            times,
            final=movement.threshold,
            pressure=movement.regulariser,
            first_share=movement.first_sparsity,
            keep=movement.keep,
        )
    module = copy.deepcopy(made.module) if quantise is None else on_grids(bench, made, rows, prepared, quantise)
    groups = install(module, movement.units) if movement else ()
    return Student(replace(made, module=module), Shaping(module, groups, times))


def on_grids(
    bench: Bench, made: LoadedModel, rows: Sequence[Encoded], prepared: Prepared, settings: QuantiseSettings
) -> nn.Module:
    """A copy of the student that computes on its grids."""
    number, scheme = settings.calibration_rows, replace(SCHEMES[settings.scheme], keep=settings.keep)
    if not number:
        return prepare_qat(made.module, scheme, steps=settings.steps)
    bench.say(f"calibrating {settings.scheme} on {min(number, len(rows)):,} rows")
    return prepare_qat(made.module, scheme, calibration(bench, rows, prepared, number), steps=settings.steps)


def observed(shaping: Shaping | None, evaluate: Evaluate | None) -> Evaluate | None:
    """An evaluation that also says which share of the gated weights is at zero."""
    if shaping is None or evaluate is None or shaping.masked() is None:
        return evaluate
    return lambda: {**evaluate(), "masked": shaping.masked() or 0.0}


def leaving(bench: Bench, student: Student, place: Path) -> LoadedModel:
    """The student as it leaves: plain layers, smaller where units went, its integers beside it in `place`."""
    made, shaping = student.made, student.shaping
    if shaping is None:
        return made
    done = shaping.finish()
    record: dict[str, Any] = {}
    if done.codes:
        save_integers(place, done.codes)
        record["integers"] = {"layers": len(done.codes)}
    if done.plan is not None and done.resolved is not None:
        save_plan(done.plan, place / PLAN)
        resolved = done.resolved
        record["movement"] = {
            "masked": resolved.masked,
            "joined": resolved.joined,
            "settled": resolved.settled,
            "kept": dict(resolved.kept),
            "notes": list(resolved.notes),
        }
        bench.say(
            f"masked {resolved.masked:.1%} of the gated weights, {resolved.joined:.1%} in units that all members "
            f"give up, {resolved.settled:.1%} with one number for all blocks"
        )
        for note in resolved.notes:
            bench.say(f"compress.movement: {note}")
        made = smaller(made, done.module, done.plan)
    bench.folder.write_json(f"stages/{place.name}/{RECORD}", record)
    return replace(made, module=done.module)


def smaller(made: LoadedModel, module: nn.Module, plan: PrunePlan) -> LoadedModel:
    """The model after a plan was carried out, under a name that says so."""
    shapes = [(name, getattr(plan.before, name), getattr(plan.after, name)) for name in ("depth", "width", "heads")]
    shapes += [("groups", plan.before.groups, plan.after.groups), ("neurons", plan.before.neurons, plan.after.neurons)]
    changed = ", ".join(f"{name} {old} to {new}" for name, old, new in shapes if old != new)
    name = f"{made.record.display_name}, pruned: {changed}" if changed else made.record.display_name
    record = recorded(
        module,
        made.tokenizer,
        source=made.record.source,
        display_name=name,
        revision=made.record.revision,
        licence=made.record.licence,
        folder=None,
    )
    return LoadedModel(module, made.tokenizer, record, made.fresh)
