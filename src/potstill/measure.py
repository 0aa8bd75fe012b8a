"""Measure a run's models side by side: the same test rows, one table, times taken in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from potstill import assemble
from potstill.bench import Bench
from potstill.beside import KL, Beside, beside
from potstill.core.batch import Batch
from potstill.core.errors import DataError, RunError, TeacherError
from potstill.core.example import Example
from potstill.core.outcome import Finding
from potstill.core.protocols import Forward
from potstill.core.signal import Want
from potstill.data.order import in_order
from potstill.data.prepare import Prepared, Split
from potstill.evaluate.bandwidth import (
    DecodeLoad,
    decode_finding,
    kv_bytes_per_token,
    measured_bandwidth,
    read_bytes,
)
from potstill.evaluate.baseline import fit_tfidf
from potstill.evaluate.cost import size_findings
from potstill.evaluate.footprint import Footprint, child_footprint, folder_program
from potstill.evaluate.predictions import Predictions, TokenSums, from_probabilities, predict, predict_tokens
from potstill.evaluate.settings import CostSettings
from potstill.evaluate.suite import dark_knowledge, evaluate_classifier, evaluate_language_model
from potstill.evaluate.timing import Conditions, greedy_decode, latency_findings, rate_findings, time_interleaved
from potstill.students.load import LoadedModel
from potstill.students.pooled import config_of
from potstill.students.settings import ModelSettings

_WANT = Want(teacher=False)
TIMED = ("teacher", "student")
# Short, since the prompt's prefill is inside the time of a decoding.
PROMPT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Subject:
    """Someone to measure: a loaded model, the data under its tokenizer, and the folder it came from."""

    name: str
    loaded: LoadedModel
    prepared: Prepared
    folder: Path | None

    def batches(self, bench: Bench, size: int | None = None) -> Iterator[Batch]:
        """The test rows, with the stop flag polled."""
        rows = size or bench.recipe.train.per_device_eval_batch_size
        return assemble.polled(bench, in_order(self.test.encoded, self.prepared.collate, rows))

    @property
    def test(self) -> Split:
        """The test rows. Raises DataError when the recipe has none."""
        if self.prepared.test is None:
            raise DataError("there is no data.test, so nothing can be measured: add one to the recipe")
        return self.prepared.test


def measure(bench: Bench, models: Mapping[str, ModelSettings] | None = None) -> list[Finding]:
    """Every finding about these models; without any, about the run's teacher, its student and the controls.

    A run whose recipe has no test rows has no findings; for `models` that is a DataError. Raises RunError when memory
    cannot be measured.
    """
    if bench.recipe.data.test is None and models is None:
        bench.say("the recipe has no data.test: nothing is measured")
        return []
    named = who(bench) if models is None else models
    subjects = {name: subject(bench, name, settings) for name, settings in named.items()}
    bench.say(f"measuring {', '.join(subjects)}")
    quality = _classifiers if bench.recipe.task == "classify" else _language_models
    with bench.closing:
        far = beside(bench, subjects["student"].prepared) if models is None else None
        findings = quality(bench, subjects, far)
    findings = findings if far is None else far.told(findings)
    for name, one in subjects.items():
        footprint = None
        if name in TIMED and one.folder is not None and bench.recipe.evaluate.cost is not None:
            bench.stop.check()
            footprint = _footprint(bench, one.folder, bench.recipe.evaluate.cost.length)
        findings += size_findings(name, one.loaded.module, one.folder, footprint)
    if bench.recipe.evaluate.cost is not None:
        timed = {name: subjects[name] for name in TIMED if name in subjects}
        findings += _times(bench, timed, bench.recipe.evaluate.cost)
    if models is None:
        findings += signal_findings(bench.folder.stage_record("student").get("left_out", ()))
    return findings


def _footprint(bench: Bench, folder: Path, length: int) -> Footprint:
    """Ctrl-C reaches the child too: its death is then the run's stop, not its failure."""
    try:
        return child_footprint(folder_program(folder, task=bench.recipe.task, length=length))
    except RunError:
        bench.stop.check()
        raise


def who(bench: Bench) -> dict[str, ModelSettings]:
    """The models to measure: the last stage's teacher if it is one model, or one with a tutor beside it, the student,
    the trained controls."""
    recipe = bench.recipe
    found: dict[str, ModelSettings] = {}
    if recipe.teacher is not None and (len(recipe.teacher.models) == 1 or recipe.teacher.choose is not None):
        found["teacher"] = recipe.teacher.models[0]
    for name in ("student", *(control for control in recipe.controls if control != "tfidf")):
        found[name] = ModelSettings(model_name_or_path=f"stage:{name}")
    return found


def subject(bench: Bench, name: str, settings: ModelSettings) -> Subject:
    """Load one of them."""
    loaded, prepared = assemble.model(bench, settings)
    return Subject(name, loaded, prepared, loaded.record.folder)


def _classifiers(bench: Bench, subjects: Mapping[str, Subject], far: Beside | None) -> list[Finding]:
    recipe = bench.recipe
    seen = {} if far is None else _heard(bench, subjects["student"], far)
    seen |= {name: predict(assemble.forward(one.loaded.module), one.batches(bench)) for name, one in subjects.items()}
    prepared, examples = subjects["student"].prepared, subjects["student"].test.examples
    findings: list[Finding] = []
    if "tfidf" in recipe.controls:
        seen["tfidf"], found = _tfidf(bench, prepared, examples)
        findings += found
    slices = {key: [one.slices.get(key, "") for one in examples] for key in sorted(examples[0].slices)}
    # A slice that is the class itself would say again what F1 per class says.
    slices = {key: values for key, values in slices.items() if not set(values) <= set(prepared.labels)}
    teacher = seen.get("teacher")
    for name, predictions in seen.items():
        findings += evaluate_classifier(
            name,
            predictions,
            classes=prepared.labels,
            settings=recipe.evaluate,
            teacher=None if name == "teacher" else teacher,
            slices=slices,
            seed=recipe.seed,
        )
    if teacher is not None:
        others = {name: one for name, one in seen.items() if name in ("student", "labels")}
        texts = [" ".join(assemble.texts_of(example)) for example in examples]
        findings += dark_knowledge(teacher, others, classes=prepared.labels, settings=recipe.evaluate, texts=texts)
    return findings


def _tfidf(bench: Bench, prepared: Prepared, examples: Sequence[Example]) -> tuple[Predictions, list[Finding]]:
    known = [(example, example.label) for example in prepared.train.examples if example.label is not None]
    bench.say(f"fitting TF-IDF on {len(known):,} labelled rows")
    joined = [" ".join(assemble.texts_of(example)) for example, _ in known]
    fitted = fit_tfidf(joined, [label for _, label in known], len(prepared.labels), seed=bench.recipe.seed)
    probabilities = fitted.probabilities([" ".join(assemble.texts_of(example)) for example in examples])
    predictions = from_probabilities(
        probabilities, [example.label for example in examples], [example.id for example in examples]
    )
    return predictions, [
        Finding("cost.parameters", float(fitted.parameters), "tfidf"),
        Finding("cost.bytes", float(fitted.bytes), "tfidf"),
    ]


def _heard(bench: Bench, student: Subject, far: Beside) -> dict[str, Predictions]:
    """What a classifier elsewhere says of the student's test rows."""
    if far.teacher is not None and not far.whole:
        far.nothing(far.lacking[KL])
    if far.teacher is None:
        return {}
    try:
        return {"teacher": predict(far.forward, student.batches(bench))}
    except TeacherError as error:
        far.nothing(f"the teacher elsewhere left while this was measured ({error})")
        return {}


def _language_models(bench: Bench, subjects: Mapping[str, Subject], far: Beside | None) -> list[Finding]:
    teacher = subjects.get("teacher")
    findings: list[Finding] = []
    for name, one in subjects.items():
        sums = None if far is None else _sums_elsewhere(bench, one, far)
        if sums is None:
            own, entries = _beside(bench, teacher, one)
            sums = predict_tokens(assemble.forward(one.loaded.module), one.batches(bench), teacher=own, entries=entries)
        findings += evaluate_language_model(name, sums, settings=bench.recipe.evaluate, seed=bench.recipe.seed)
    return findings


def _sums_elsewhere(bench: Bench, one: Subject, far: Beside) -> TokenSums | None:
    """Held against a teacher elsewhere; None where nobody is heard."""
    if far.teacher is None:
        return None
    sizes = {far.entries, one.loaded.record.vocabulary_size}
    spoken = {"teacher": far.forward} if far.whole else {"choices": far.choices}
    entries = min(sizes) if len(sizes) > 1 else None
    try:
        return predict_tokens(assemble.forward(one.loaded.module), one.batches(bench), entries=entries, **spoken)
    except TeacherError as error:
        far.nothing(f"the teacher elsewhere left while this was measured ({error})")
        return None


def _beside(bench: Bench, teacher: Subject | None, one: Subject) -> tuple[Forward | None, int | None]:
    """The teacher to hold a subject against, and over how many entries where their tables differ in length. With
    different tokenizers no position of one is a position of the other, and nothing is compared."""
    if teacher is None or one is teacher:
        return None, None
    theirs, ours = teacher.loaded.record, one.loaded.record
    if theirs.tokenizer_sha256 != ours.tokenizer_sha256:
        bench.say(f"{one.name} and teacher have different tokenizers: their agreement is not measured")
        return None, None
    sizes = {theirs.vocabulary_size, ours.vocabulary_size}
    return assemble.forward(teacher.loaded.module), min(sizes) if len(sizes) > 1 else None


def signal_findings(left_out: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """What the student could not hear of its teachers, as measured before the training."""
    found = []
    for one in left_out:
        evidence = {name: value for name, value in one.items() if name not in ("mean", "share", "mass")}
        if one["vocabulary"] == "padded":
            found.append(Finding("signal.padding_mass", one["mean"], "teacher", evidence=evidence))
        else:
            found.append(Finding("signal.coverage", one["share"], "teacher", evidence=evidence))
            found.append(Finding("signal.shared_mass", one["mass"], "teacher", evidence=evidence))
    return found


def _times(bench: Bench, subjects: Mapping[str, Subject], cost: CostSettings) -> list[Finding]:
    """Latency of real test rows one at a time, and the rate of a full batch; for decoders also greedy decoding."""
    bench.say(f"timing {' and '.join(subjects)} in turn, {cost.threads} threads")
    resamples, seed = bench.recipe.evaluate.bootstrap, bench.recipe.seed
    single = {name: _runner(bench, one, list(one.batches(bench, 1))) for name, one in subjects.items()}
    rows = next(iter(subjects.values())).test.encoded
    middle = int(np.median([row.length for row in rows]))
    seconds = time_interleaved(single, rounds=cost.rounds, threads=cost.threads)
    findings = latency_findings(seconds, Conditions(1, middle, cost.threads, resamples, seed))
    bench.stop.check()
    full = {name: _runner(bench, one, list(one.batches(bench, cost.batch_size))) for name, one in subjects.items()}
    seconds = time_interleaved(full, rounds=max(5, cost.rounds // 4), threads=cost.threads)
    findings += rate_findings(
        "cost.throughput_rows_s",
        seconds,
        Conditions(cost.batch_size, middle, cost.threads, resamples, seed),
        items=cost.batch_size,
        unit="rows/s",
    )
    if bench.recipe.task == "causal-lm":
        findings += _decoding(bench, subjects, cost)
    return findings


def _runner(bench: Bench, one: Subject, batches: Sequence[Batch]) -> Callable[[], object]:
    """A call that runs the next of some batches; every subject meets the same rows in the same order. The look at the
    stop flag costs nanoseconds."""
    order = np.random.default_rng(0).permutation(len(batches))
    turns = cycle([batches[int(index)] for index in order])
    answer = assemble.forward(one.loaded.module)

    def run() -> object:
        bench.stop.check()
        return answer(next(turns), _WANT)

    return run


def _decoding(bench: Bench, subjects: Mapping[str, Subject], cost: CostSettings) -> list[Finding]:
    calls = {}
    for name, one in subjects.items():
        prompt_BL = torch.from_numpy(one.test.encoded[0].tokens[:PROMPT_TOKENS]).long()[None]
        generate = cast("Callable[..., torch.Tensor]", one.loaded.module.generate)
        calls[name] = greedy_decode(partial(generate, pad_token_id=0), prompt_BL, cost.new_tokens)
    seconds = time_interleaved(calls, rounds=max(5, cost.rounds // 4), threads=cost.threads, warm_up=1)
    conditions = Conditions(1, cost.new_tokens, cost.threads, bench.recipe.evaluate.bootstrap, bench.recipe.seed)
    findings = rate_findings("cost.decode_tokens_s", seconds, conditions, items=cost.new_tokens, unit="tokens/s")
    for name, one in subjects.items():
        bench.stop.check()
        bound = _decode_load(one.loaded.module, cost)
        bandwidth = measured_bandwidth(int(bound.weight_bytes), threads=cost.threads)
        fastest = cost.new_tokens / min(seconds[name])
        findings.append(decode_finding(name, fastest, bound, bytes_per_second=bandwidth))
    return findings


def _decode_load(module: nn.Module, cost: CostSettings) -> DecodeLoad:
    """What one token of the timed decoding reads: the weights, and the keys and values of half of what was made."""
    config = config_of(module).get_text_config()
    heads = config.num_attention_heads
    kv_bytes = kv_bytes_per_token(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        bytes_per_value=next(module.parameters()).element_size(),
    )
    return DecodeLoad(read_bytes(module), kv_bytes, context=PROMPT_TOKENS + cost.new_tokens // 2)
