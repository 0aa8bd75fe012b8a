"""The one place where settings become objects."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.batch import Batch
from potstill.core.errors import DataError, SignalError
from potstill.core.example import Example
from potstill.core.protocols import Forward, Teacher
from potstill.core.signal import Outputs, Voice, Want
from potstill.data.encoded import Encoded
from potstill.data.order import in_order
from potstill.data.prepare import Prepared, Split
from potstill.evaluate.choosing import classifier_scores, language_model_scores
from potstill.evaluate.predictions import predict, predict_tokens
from potstill.students.inherit import make_student
from potstill.students.load import LoadedModel, load_model, load_tokenizer
from potstill.students.pooled import config_of, positions_of
from potstill.students.probe import fit_probe
from potstill.students.settings import ModelSettings, StudentSettings
from potstill.students.taps import install_head, outputs, pooled_features
from potstill.teachers.cache import AnswerCache
from potstill.teachers.ensemble import Ensemble, kept_members
from potstill.teachers.local import LocalTeacher
from potstill.train.precision import has_native_bf16

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
    reads, cost = positions_of(config_of(loaded.module)), bench.recipe.evaluate.cost
    lengths = {"data.max_length": bench.recipe.data.max_length, "evaluate.cost.length": cost.length if cost else 0}
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


def teacher(bench: Bench, stage: StageSettings, prepared: Prepared, place: Path) -> Teacher | None:
    """Whoever comments on the stage's batches: one model or an ensemble, live or from recorded answers."""
    settings = stage.teacher
    if settings is None:
        return None
    bf16 = has_native_bf16() if settings.bf16 == "auto" else settings.bf16
    members: list[LocalTeacher] = []
    read: list[Prepared] = []
    for named in settings.models:
        loaded, own = model(bench, named)
        members.append(local(loaded, own, bf16=bf16))
        read.append(own)
    weights = settings.weights or (1.0,) * len(members)
    if settings.drop_above is not None:
        kept = keep_members(bench, settings.drop_above, members, read)
        members, read = [members[position] for position in kept], [read[position] for position in kept]
        weights = tuple(weights[position] for position in kept)
    speakers: list[Teacher] = list(members)
    if settings.cache:
        speakers = [recorded(bench, one, own, prepared, place) for one, own in zip(members, read, strict=True)]
    elif any(own is not prepared for own in read):
        raise SignalError(
            "the teacher and the student have different tokenizers, so they cannot read one batch: set teacher.cache: "
            "true (classifiers), or keep the student's vocabulary"
        )
    if len(speakers) == 1:
        return speakers[0]
    return Ensemble(speakers, combine=settings.combine, weights=weights, temperature=stage.objective.temperature)


def local(loaded: LoadedModel, prepared: Prepared, *, bf16: bool) -> LocalTeacher:
    """A loaded model as a teacher that speaks in this process."""
    size = len(prepared.labels) or loaded.record.vocabulary_size
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
