"""The one place where settings become objects."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from potstill.augmenting import augmented
from potstill.bench import Bench
from potstill.chains import refuse_changed, refuse_larger, refuse_unlabelled_choice
from potstill.config import StageSettings
from potstill.core.batch import Batch
from potstill.core.errors import DataError, SignalError
from potstill.core.example import Example
from potstill.core.protocols import Forward, Objective, Teacher
from potstill.core.signal import HeadedStates, Outputs, Voice, Want
from potstill.data.collate import Collate
from potstill.data.encoded import Encoded
from potstill.data.order import in_order
from potstill.data.prepare import Prepared, Split
from potstill.elsewhere import note, remote, same_tokenizer
from potstill.evaluate.choosing import classifier_scores, language_model_scores
from potstill.evaluate.predictions import predict, predict_tokens
from potstill.objectives.chosen import Chosen
from potstill.objectives.fused import FusedHinton
from potstill.objectives.layers import LayerByLayer, paired, shared_projection
from potstill.objectives.logits import Hinton
from potstill.objectives.projection import DualSpace, Projections
from potstill.replay import asked_elsewhere, asked_here, recalled, replayed
from potstill.students.inherit import make_student
from potstill.students.layouts import dimensions_of
from potstill.students.load import LoadedModel, load_model, load_tokenizer
from potstill.students.pooled import config_of, positions_of
from potstill.students.probe import fit_probe
from potstill.students.settings import ModelSettings, StudentSettings
from potstill.students.taps import install_head, outputs, pooled_features
from potstill.teachers.cache import AnswerCache
from potstill.teachers.endpoint import EndpointTeacher
from potstill.teachers.ensemble import Ensemble, kept_members
from potstill.teachers.key import read_key
from potstill.teachers.local import LocalTeacher
from potstill.teachers.routed import RoutedTeacher, named_route
from potstill.teachers.tutored import TutoredTeacher
from potstill.train.plan import Companion
from potstill.train.precision import has_native_bf16
from potstill.vocabularies import bridged, compared, measured, route_elsewhere, routes, spoken_by

# scikit-learn's C for features of unit length; 3 was best in cross-validation on the demo's labelled
# rows. On standardised features, whose squared length is their number, the same strength is width / C.
PROBE_C = 3.0


def model(bench: Bench, settings: ModelSettings) -> tuple[LoadedModel, Prepared]:
    """A model as the recipe names it, and the data under its tokenizer."""
    made, trusted = bench.products, bench.trust_remote_code
    prepared = bench.data(load_tokenizer(settings, folder_of=made, trust_remote_code=trusted))
    labels = prepared.labels or None
    loaded = load_model(settings, task=bench.recipe.task, labels=labels, folder_of=made, trust_remote_code=trusted)
    refuse_long_rows(bench, loaded)
    refuse_changed(bench, settings, loaded.record)
    bench.records[settings.model_name_or_path] = loaded.record
    return loaded, prepared


def student(bench: Bench, settings: StudentSettings) -> tuple[LoadedModel, Prepared]:
    """The student as initialised, and the data under the tokenizer it ends up with."""
    source, prepared = model(bench, settings)
    refuse_unlabelled(bench, prepared)
    made = make_student(
        settings,
        source,
        task=bench.recipe.task,
        labels=prepared.labels or None,
        texts=[text for example in prepared.train.examples for text in texts_of(example)],
        seed=bench.recipe.seed,
    )
    refuse_long_rows(bench, made)
    if settings.vocabulary_size is not None:
        prepared = bench.data(made.tokenizer)
    if settings.head == "probe":
        install_probe(bench, made.module, prepared)
    return made, prepared


def refuse_long_rows(bench: Bench, loaded: LoadedModel) -> None:
    """A model without enough positions for the rows, or for what is timed, would fail in the middle of a run."""
    reads, recipe = positions_of(config_of(loaded.module)), bench.recipe
    longest_row, cost = recipe.data.max_length, recipe.evaluate.cost
    rollouts = [one.rollout for one in (*recipe.stages, recipe.final) if one.rollout is not None]
    lengths = {"data.max_length": longest_row, "evaluate.cost.length": cost.length if cost else 0}
    for one in rollouts:
        prompt = min(longest_row, one.prompt_tokens or longest_row)
        lengths[f"a prompt of {prompt} with rollout.max_new_tokens"] = prompt + one.max_new_tokens
    for name, longest in lengths.items():
        if reads is not None and longest > reads:
            raise DataError(
                f"{name} is {longest}, and {loaded.record.display_name} reads at most {reads} tokens: lower it"
            )


def refuse_unlabelled(bench: Bench, prepared: Prepared) -> None:
    """Accuracy is measured on labels: better said before the training than after it."""
    for split in (prepared.validation, prepared.test):
        if bench.recipe.task == "classify" and split is not None and not split.labelled:
            raise DataError(
                f"data.{split.name}: none of its {len(split.encoded)} rows has a label, so nothing can be measured on "
                f"them: name the column in data.{split.name}.columns.label, or take rows with labels"
            )


def install_probe(bench: Bench, module: nn.Module, prepared: Prepared) -> None:
    """Start the head as a linear probe on the features of the labelled rows."""
    rows = prepared.train.labelled
    bench.say(f"fitting a linear probe on {len(rows):,} labelled rows")
    features, labels = [], []
    for batch in polled(bench, in_order(rows, prepared.collate, bench.recipe.train.per_device_eval_batch_size)):
        features.append(pooled_features(module, batch))
        labels.append(batch.targets_BT[:, 0])
    features_ND = torch.cat(features)
    weight, bias = fit_probe(features_ND, torch.cat(labels), len(prepared.labels), features_ND.shape[1] / PROBE_C)
    install_head(module, weight, bias)


@dataclass(frozen=True, slots=True)
class Heard:
    """Whoever comments on a stage's batches, the batches as it can comment on them, and what of it is left out.
    members: those it is made of, live, each with the data under its own tokenizer."""

    teacher: Teacher | None
    collate: Collate
    left_out: Sequence[Mapping[str, Any]] = ()
    members: Sequence[tuple[Teacher, Prepared]] = ()


def teacher(bench: Bench, stage: StageSettings, made: LoadedModel, prepared: Prepared, place: Path) -> Heard:
    """One model, an ensemble, or one for each row; live or from recorded answers; or an endpoint. `made` is the
    student, whose tokens an endpoint must speak of."""
    settings = stage.teacher
    if settings is None:
        return Heard(None, prepared.learnt)
    if settings.endpoint is not None:
        return Heard(endpoint(bench, stage, made), prepared.learnt)
    own_vocabulary = spoken_by(stage.student, made)
    ways = routes(bench, settings, own_vocabulary)
    bf16 = has_native_bf16() if settings.bf16 == "auto" else settings.bf16
    members: list[LocalTeacher] = []
    read: list[Prepared] = []
    models: list[LoadedModel] = []
    bridges: list[Callable[[Teacher], Teacher]] = []
    for named, way in zip(settings.models, ways, strict=True):
        loaded, own = model(bench, named)
        own = augmented(bench, stage, own, loaded.tokenizer) if settings.cache else own
        members.append(local(loaded, len(own.labels) or loaded.record.vocabulary_size, bf16=bf16))
        read.append(own)
        models.append(loaded)
        bridges.append(partial(bridged, way, teacher=spoken_by(named, loaded), student=own_vocabulary))
    refuse_larger(bench, stage, made.record)
    weights = settings.weights or (1.0,) * (len(members) + bool(settings.urls))
    if settings.drop_above is not None:
        kept = keep_members(bench, settings.drop_above, members, read)
        members, read = [members[position] for position in kept], [read[position] for position in kept]
        models, bridges = [models[position] for position in kept], [bridges[position] for position in kept]
        weights = tuple(weights[position] for position in kept)
    rows = rows_of(stage, prepared)
    speakers: list[Teacher] = list(members)
    if settings.cache:
        speakers = [recorded(bench, one, own, prepared, place) for one, own in zip(members, read, strict=True)]
    elif settings.store is not None:
        stores = {  # by voice: a model that is named twice writes to one store
            one.voice: replayed(
                bench, stage, asked_here(one, loaded, rows, prepared.collate, bf16=bf16), rows, prepared.collate, place
            )
            for one, loaded in {one.voice: (one, loaded) for one, loaded in zip(members, models, strict=True)}.values()
        }
        speakers = [stores[one.voice] for one in members]
    if not settings.cache:
        speakers = [bridge(one) for bridge, one in zip(bridges, speakers, strict=True)]
    live: list[tuple[Teacher, Prepared]] = list(zip(members, read, strict=True))
    if settings.urls:
        far = elsewhere(bench, stage, rows, prepared, place)
        live.append((far, prepared))
        same_tokenizer(bench, settings, made.tokenizer)
        way = route_elsewhere(bench, settings, own_vocabulary, ways)
        far = remembered(bench, far, prepared, place) if settings.cache else far
        speakers.append(bridged(way, far, teacher=own_vocabulary, student=own_vocabulary))
    left_out = measured(bench.say, speakers, lambda: polled(bench, plain_batches(bench, rows, prepared.collate)))
    return Heard(together(stage, speakers, weights, rows), compared(prepared.learnt, speakers), left_out, live)


def elsewhere(bench: Bench, stage: StageSettings, rows: Sequence[Encoded], prepared: Prepared, place: Path) -> Teacher:
    """The stage's teacher that is served, behind its store where there is one; then it is asked who it is only when the
    store lacks a row. Raises TeacherError when it must be asked and does not answer."""
    settings = stage.teacher
    assert settings is not None, "the stage names addresses"
    if settings.store is None:
        return remote(bench, settings)
    if (found := recalled(bench, stage, rows, prepared.collate, place)) is not None:
        note(bench, settings, found[1])
        return found[0]
    asked = asked_elsewhere(remote(bench, settings), settings.urls)
    return replayed(bench, stage, asked, rows, prepared.collate, place)


def objective(
    bench: Bench, stage: StageSettings, made: LoadedModel, heard: Heard, prepared: Prepared
) -> tuple[Objective, Companion | None]:
    """What is learnt by, and the parameters that it brings along."""
    if stage.objective.layers is not None:
        return layer_by_layer(bench, stage, made, heard)
    if stage.teacher is not None and stage.teacher.choose is not None:
        refuse_unlabelled_choice(bench, stage, rows_of(stage, prepared))
        return Chosen(stage.objective, stage.teacher.choose), None
    if (settings := stage.objective.projection) is None:
        return (FusedHinton if stage.objective.fused else Hinton)(stage.objective), None
    assert heard.teacher is not None, "a recipe with a projection has a teacher"
    want = Want(headed=True)
    batch = heard.collate(rows_of(stage, prepared)[:1], 0)
    with torch.no_grad():
        signal, own = heard.teacher.signal(batch, want), outputs(made.module, batch, want).headed
    if not isinstance(signal.logits, HeadedStates) or own is None:
        raise SignalError(
            f"objective.projection needs hidden states, and teacher {heard.teacher.voice.teacher} sends "
            f"{type(signal.logits).__name__}: take a teacher that sends them, or remove objective.projection"
        )
    ours = own.head if signal.entries_K is None else own.head.over(signal.entries_K)
    projections = Projections(ours, signal.logits.head)
    companion = Companion(projections, settings.learning_rate, settings.gradient_limit)
    return DualSpace(stage.objective, projections), companion


def layer_by_layer(
    bench: Bench, stage: StageSettings, made: LoadedModel, heard: Heard
) -> tuple[Objective, Companion | None]:
    """An objective on layers, once the two models are known to fit; its projection learns beside the student."""
    settings, one = stage.objective.layers, heard.teacher
    assert settings is not None, "the recipe compares layers"
    if not isinstance(one, LocalTeacher) or one.module is None:
        raise SignalError("objective.layers needs one teacher in this process: name it in teacher.models")
    ours, theirs = dimensions_of(made.module), dimensions_of(one.module)
    pairs = paired(settings, ours, theirs)
    if settings.projection is None:
        return LayerByLayer(stage.objective, pairs), None
    projection = shared_projection(ours, theirs, bench.recipe.seed)
    companion = Companion(projection, settings.projection.learning_rate, settings.projection.gradient_limit)
    return LayerByLayer(stage.objective, pairs, projection), companion


def plain_batches(bench: Bench, rows: Sequence[Encoded], collate: Collate) -> list[Batch]:
    """Every row once, as the data has them: the first ones are then a fair sample."""
    size = bench.recipe.train.per_device_eval_batch_size
    return [collate(rows[start : start + size], 0) for start in range(0, len(rows), size)]


def together(
    stage: StageSettings, speakers: Sequence[Teacher], weights: Sequence[float], rows: Sequence[Encoded]
) -> Teacher:
    """One of several: each row's own, or the mean of all. Raises SignalError, naming the row, for a row whose teacher
    is not known."""
    settings = stage.teacher
    assert settings is not None, "there are speakers"
    if settings.routes is not None and settings.route_by is not None:
        for one in rows:
            named_route(settings.routes, settings.route_by, one.slices, f"training row {one.row} ({one.ids[0]})")
        chosen = {value: speakers[position] for value, position in settings.routes.items()}
        return RoutedTeacher(chosen, column=settings.route_by)
    if settings.choose is not None:
        return TutoredTeacher(*speakers)
    if len(speakers) == 1:
        return speakers[0]
    return Ensemble(speakers, combine=settings.combine, weights=weights, temperature=stage.objective.temperature)


def endpoint(bench: Bench, stage: StageSettings, learner: LoadedModel) -> EndpointTeacher:
    """Somebody else's server as the stage's teacher."""
    settings = stage.teacher.endpoint if stage.teacher else None
    assert settings is not None, "the stage names an endpoint"
    assert stage.objective.top_k is not None, "a recipe with an endpoint says how many tokens it is asked for"
    found = EndpointTeacher.connect(
        settings,
        learner.tokenizer,
        vocabulary_size=learner.record.vocabulary_size,
        top_k=stage.objective.top_k,
        key=read_key(settings),
        check=bench.stop.check,
    )
    bench.say(f"teacher {found.voice.teacher}, asked by {found.way_name}")
    bench.endpoints[settings.url] = found.voice.teacher
    return found


def local(loaded: LoadedModel, size: int, *, bf16: bool) -> LocalTeacher:
    """A loaded model as a teacher that speaks in this process. size: of its vocabulary, or its classes."""
    voice = Voice(teacher=loaded.record.fingerprint, vocabulary_size=size)
    return LocalTeacher(forward(loaded.module, bf16=bf16), voice, loaded.module)


def keep_members(
    bench: Bench, drop_above: float, members: Sequence[LocalTeacher], read: Sequence[Prepared]
) -> tuple[int, ...]:
    """Positions of the members whose cross-entropy on the validation rows is not too far above the best."""
    heard = [validation_loss(bench, one.forward, own) for one, own in zip(members, read, strict=True)]
    losses = bench.ranks.lead(lambda: heard)
    kept = kept_members(losses, drop_above)
    for position in sorted(set(range(len(members))) - set(kept)):
        bench.say(f"teacher {position} is left out: cross-entropy {losses[position]:.3f}, best {min(losses):.3f}")
    return kept


def validation_loss(bench: Bench, answer: Forward, prepared: Prepared) -> float:
    """Mean cross-entropy on the validation rows, nats."""
    assert prepared.validation is not None, "a recipe with drop_above has validation rows"
    return scores(bench, answer, prepared, prepared.validation)["loss"]


def scores(bench: Bench, answer: Forward, prepared: Prepared, split: Split) -> dict[str, float]:
    """What chooses a checkpoint: loss with accuracy and macro F1, or with perplexity."""
    batches = polled(bench, in_order(split.encoded, prepared.collate, bench.recipe.train.per_device_eval_batch_size))
    if bench.recipe.task == "classify":
        return classifier_scores(predict(answer, batches))
    return language_model_scores(predict_tokens(answer, batches))


def remembered(bench: Bench, one: Teacher, prepared: Prepared, place: Path) -> AnswerCache:
    """The answers of a teacher elsewhere on every training row."""
    folder, rows = place / f"answers-{one.voice.teacher}", prepared.train.encoded
    if (folder / "answers.json").exists():
        return AnswerCache.load(folder, one.voice)
    bench.say(f"asking the teacher elsewhere about {len(rows):,} rows, once")
    batches = in_order(rows, prepared.collate, bench.recipe.train.per_device_eval_batch_size)
    answers = AnswerCache.record(one, polled(bench, batches), rows_total=len(rows))
    answers.save(folder)
    return answers


def recorded(bench: Bench, one: LocalTeacher, own: Prepared, prepared: Prepared, place: Path) -> AnswerCache:
    """The teacher's answers on every training row: read back if they lie there, else asked once and saved."""
    if [row.ids for row in own.train.encoded] != [row.ids for row in prepared.train.encoded]:
        raise SignalError(
            "teacher and student do not keep the same training rows (their tokenizers cut them differently): set "
            "data.on_long_row: truncate"
        )
    folder = place / f"answers-{one.voice.teacher}"
    if bench.ranks.lead((folder / "answers.json").exists):
        return AnswerCache.load(folder, one.voice)
    rows = own.train.encoded
    bench.say(f"asking the teacher about {len(rows):,} rows, once")
    batches = in_order(rows, own.collate, bench.recipe.train.per_device_eval_batch_size)
    answers = AnswerCache.record(one, polled(bench, batches), rows_total=len(rows))
    bench.ranks.lead(lambda: answers.save(folder))
    return answers


def route_names(stage: StageSettings, rows: Sequence[Encoded]) -> str | None:
    """Hash of what each row's routing column says, None without routes: a run goes on with the same ones only."""
    if stage.teacher is None or stage.teacher.route_by is None:
        return None
    names = [one.slices.get(stage.teacher.route_by, "") for one in rows]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def forward(module: nn.Module, *, bf16: bool = False) -> Forward:
    """A module as training and evaluation see it."""
    return partial(_autocast, module) if bf16 else partial(outputs, module)


def _autocast(module: nn.Module, batch: Batch, want: Want) -> Outputs:
    with torch.autocast(next(module.parameters()).device.type, dtype=torch.bfloat16):
        return outputs(module, batch, want)


def polled(bench: Bench, batches: Sequence[Batch]) -> Iterator[Batch]:
    """Batches one by one; between them a look at the stop flag and, every ten seconds, how far and how long yet."""
    started = spoke = time.monotonic()
    for done, batch in enumerate(batches):
        bench.stop.check()
        now = time.monotonic()
        if now - spoke > 10:
            spoke = now
            bench.say(f"  batch {done} of {len(batches)}, {(now - started) / done * (len(batches) - done):.0f} s left")
        yield batch


def rows_of(stage: StageSettings, prepared: Prepared) -> Sequence[Encoded]:
    """The training rows a stage may read."""
    return prepared.train.labelled if stage.use == "labelled" else prepared.train.encoded


def texts_of(example: Example) -> list[str]:
    """Everything in an example that a tokenizer will see."""
    turns = [message.content for message in example.messages]
    return [text for text in (example.prompt, example.response, example.pair, *turns) if text]
