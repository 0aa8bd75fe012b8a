"""One training of a run, from its settings to a saved model. A finished stage is never done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from potstill import assemble, compressing, onpolicy, ordering
from potstill.augmenting import account, augmented
from potstill.bench import Bench
from potstill.chains import ended, hash_of, idle_record, parents, product_of, verdict
from potstill.compress.joint import Pressed
from potstill.compressing import Student
from potstill.config import StageSettings
from potstill.core.protocols import Observer
from potstill.data.prepare import Prepared
from potstill.durable import writing
from potstill.elsewhere import looked_ahead
from potstill.licensing import is_ours
from potstill.onpolicy import ORIGINS, listening, record_origins, rolled_out
from potstill.release import refuse_stage
from potstill.students.fingerprint import weights_sha256
from potstill.students.freeze import freeze, names_of
from potstill.students.load import LoadedModel
from potstill.students.save import save_model
from potstill.students.taps import outputs
from potstill.train.capture import load_weights
from potstill.train.loop import train
from potstill.train.observe import Console, LogFile
from potstill.train.plan import TrainPlan, TrainResult, Unshaped
from potstill.vocabularies import refuse_other_vocabularies

DONE = "stage.json"
REJECTS = "rejects.jsonl"
LEFT_OUT = "left-out.json"
ORDER = "order.json"


def run_stage(bench: Bench, stage: StageSettings, *, steps: int | None = None) -> None:
    """Train a stage, or find it trained, and remember its product. steps: another length than the stage's own; 0
    saves the student as initialised."""
    place = bench.folder.stage(stage.name)
    if not bench.ranks.lead((place / DONE).exists):
        if (reason := ended(bench, stage)) is not None:
            bench.say(reason)
            record = idle_record(bench, stage, reason)
            bench.ranks.lead(lambda: bench.folder.write_json(f"stages/{stage.name}/{DONE}", record))
            return stand(bench, stage.name)
        bench.say(f"stage {stage.name}")
        bench = bench.seen_by(stage)
        refuse_other_vocabularies(bench, stage)
        made, plain = assemble.student(bench, stage.student)
        made = compressing.pruned(bench, stage, made, plain, place)
        prepared = plain if steps == 0 else augmented(bench, stage, plain, made.tokenizer)
        varied = None if steps == 0 else account(bench, stage, plain)
        student = compressing.shaped(bench, stage, made, prepared, steps)
        with bench.closing:
            result = None if steps == 0 else learn(bench, stage, student, prepared, place, steps)
        bench.ranks.lead(lambda: finish(bench, stage, student, prepared, result, place, varied))
    stand(bench, stage.name)


def stand(bench: Bench, name: str) -> None:
    """From here on `stage:NAME` is this model."""
    bench.products[name] = bench.folder.stage(product_of(bench, name)) / "model"


def finish(
    bench: Bench,
    stage: StageSettings,
    student: Student,
    prepared: Prepared,
    result: TrainResult | None,
    place: Path,
    varied: Mapping[str, Any] | None = None,
) -> None:
    """Write what the stage leaves behind, its record last. varied: what augmentation did."""
    with writing(place / REJECTS):
        prepared.quarantine.write(place / REJECTS)
    if result is not None:
        load_weights(result.best, student.made.module)
        student.made.module.eval()
    made = compressing.leaving(bench, student, place)
    product, aside = place / "model", place / "model.partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        save_model(made, aside)
        shutil.rmtree(product, ignore_errors=True)
        aside.replace(product)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    done = summary(bench, made, prepared, result) | {"teachers": teachers(bench, stage) if result else []}
    done["hash"], done["parents"] = weights_sha256(made.module)[:16], parents(bench, stage) if result else []
    if result is not None and (hop := verdict(bench, stage, result)) is not None:
        done["hop"] = hop
        bench.say(hop["words"])
    done["order"] = bench.folder.read_json(f"stages/{stage.name}/{ORDER}")
    if varied is not None:
        done["augment"] = dict(varied)
    if (origins := bench.folder.read_json(f"stages/{stage.name}/{ORIGINS}")) is not None:
        done["rollout"] = origins
    if (record := bench.folder.read_json(f"stages/{stage.name}/{compressing.RECORD}")) is not None:
        done["compress"] = record
    done["left_out"] = bench.folder.read_json(f"stages/{stage.name}/{LEFT_OUT}") or []
    bench.folder.write_json(f"stages/{stage.name}/{DONE}", done)
    shutil.rmtree(place / "checkpoints", ignore_errors=True)


def learn(
    bench: Bench, stage: StageSettings, student: Student, prepared: Prepared, place: Path, steps: int | None
) -> TrainResult:
    """The training itself, shared with the other ranks; its checkpoints lie in `place`."""
    bench.stop.check()
    made, shaping = student.made, student.shaping
    heard = assemble.teacher(bench, stage, made, prepared, place)
    known = summary(bench, made, prepared, None) | {"teachers": teachers(bench, stage)}
    bench.ranks.lead(lambda: refuse_stage(bench.folder, bench.recipe, known))
    objective, companion = assemble.objective(bench, stage, made, heard, prepared)
    bench.ranks.lead(lambda: bench.folder.write_json(f"stages/{stage.name}/{LEFT_OUT}", list(heard.left_out)))
    rows = assemble.rows_of(stage, prepared)
    settings = stage.train
    if stage.student.freeze:
        freeze(made.module, stage.student.freeze)
    set_dropout(made.module, settings.dropout)
    start = ordering.at_first(bench, stage, made, prepared)
    module, answer = bench.ranks.spread(made.module, outputs)
    learner = ordering.Learner(module, answer)
    source = ordering.source(bench, stage, learner, heard, prepared, start)
    evaluated, max_steps = prepared.validation, steps or ordering.length(stage, len(rows))
    score = None if evaluated is None else lambda one: assemble.scores(bench, one, prepared, evaluated)
    writer = onpolicy.Learner(made, module, answer, score)
    drawn = rolled_out(bench, stage, source, rows, writer, batches=max_steps * settings.gradient_accumulation_steps)
    voice = {"teacher": heard.teacher.voice.teacher} if stage.teacher and stage.teacher.urls and heard.teacher else {}
    plan = TrainPlan(
        settings=settings,
        folder=place,
        fingerprint={
            "stage": stage.model_dump(mode="json"),
            "student": made.record.fingerprint,
            "steps": steps,
            "routes": assemble.route_names(stage, rows),
            **voice,
        },
        max_steps=max_steps,
        seed=bench.recipe.seed,
        module=module,
        forward=answer,
        objective=objective if shaping is None else Pressed(objective, shaping),
        source=looked_ahead(bench, stage, drawn, heard.teacher, objective.want()),
        teacher=heard.teacher,
        evaluate=compressing.observed(
            shaping,
            None
            if evaluated is None or not stage.objective.answers
            else ordering.evaluation(bench, stage, learner, prepared),
        ),
        head=names_of(module, "head"),
        companion=companion,
        shaping=shaping or Unshaped(),
        resume_command=f"potstill resume {bench.folder.root}",
        ranks=bench.ranks,
    )
    observers: list[Observer] = [Console(), LogFile(bench.folder.root / "log.txt")] if bench.ranks.leads else []
    result = train(plan, flag=bench.stop, observers=[*observers, *listening(drawn)])
    record_origins(bench, stage, drawn)
    if stage.order is not None:
        bench.ranks.lead(lambda: bench.folder.write_json(f"stages/{stage.name}/{ORDER}", ordering.account(source)))
    return result


def set_dropout(module: nn.Module, probability: float | None) -> None:
    """One probability for every dropout of the student; None leaves each as its config has it."""
    if probability is None:
        return
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
        elif isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = probability


def summary(bench: Bench, made: LoadedModel, prepared: Prepared, result: TrainResult | None) -> dict[str, Any]:
    """What the ledger and the report say of a finished stage. A stage made from another one keeps that one's base model
    and licence: training removes neither."""
    kind, _, earlier = made.record.source.partition(":")
    before = bench.folder.stage_record(earlier) if kind == "stage" else None
    found: dict[str, Any] = {
        "model": made.record.display_name,
        "source": made.record.source,
        "base": before["base"] if before else made.record.source,
        "revision": made.record.revision,
        "ours": before.get("ours", False) if before else is_ours(made.record.source),
        "licence": before["licence"] if before else made.record.licence,
        "data": prepared.summary(),
        "lineage": [
            {
                "role": "data",
                "source": lineage.source,
                "revision": lineage.revision,
                "licence": lineage.licence,
                "maker": lineage.maker,
                "generation": lineage.generation,
                "ours": is_ours(lineage.source),
                "notes": f"made by {lineage.maker}, {lineage.generation} synthetic generations deep",
            }
            for lineage in prepared.lineages
        ],
        "steps": 0,
    }
    if result is not None:
        found |= {
            "steps": result.step,
            "best_step": result.best_step,
            "best_value": result.best_value,
            "examples": result.examples,
            "tokens": result.tokens,
            "seconds": result.seconds,
            "skipped": result.skipped,
            "stopped_early": result.stopped_early,
            "bf16": result.precision.bf16,
            "precision": result.precision.reason,
        }
    return found


def teachers(bench: Bench, stage: StageSettings) -> list[dict[str, Any]]:
    """Where the stage's teachers came from, with the licence each states; products of stages are entries already."""
    found = []
    named = [one.model_name_or_path for one in stage.teacher.models] if stage.teacher else []
    for name in [*named, *(stage.teacher.urls[:1] if stage.teacher else ())]:
        if not name.startswith("stage:"):
            one = bench.records[name]
            found.append(
                {
                    "role": "teacher",
                    "source": one.source,
                    "base": one.source,
                    "revision": one.revision,
                    "licence": one.licence,
                    "ours": is_ours(one.source),
                    "hash": hash_of(one),
                    "notes": f"{one.display_name}; taught stage {stage.name}",
                    **({"url": name} if stage.teacher and name in stage.teacher.urls else {}),
                }
            )
    if stage.teacher is not None and (named := stage.teacher.endpoint) is not None:
        who = bench.endpoints[named.url]
        found.append(
            {
                "role": "teacher",
                "source": who,
                "base": who,
                "revision": "unknown",
                "licence": named.licence or "unknown",
                "url": named.url,
                "notes": f"a black box: its {stage.objective.top_k} likeliest tokens; taught stage {stage.name}",
            }
        )
    return found


def curve(place: Path, arm: str) -> list[dict[str, Any]]:
    """The logged lines of a stage, with the arm they belong to."""
    file = place / "metrics.jsonl"
    if not file.exists():
        return []
    with file.open(encoding="utf-8") as lines:
        return [{"arm": arm, **json.loads(line)} for line in lines]
